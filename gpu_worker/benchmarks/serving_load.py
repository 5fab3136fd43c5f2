"""A small load generator: requests one after the other, or a fixed number in flight."""

import json
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import httpx


@dataclass(frozen=True)
class Request:
    """One chat request; greedy."""

    model: str
    messages: list[dict[str, str]]
    max_tokens: int
    schema: dict[str, Any] | None = None

    def body(self) -> dict[str, Any]:
        """Return the request's JSON."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages": self.messages,
            "max_tokens": self.max_tokens,
            "temperature": 0,
        }
        if self.schema is not None:
            named = {"name": "answer", "schema": self.schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        return body


@dataclass(frozen=True)
class Load:
    """What a round of requests took. `latencies_s` and `answers` in the order of the requests."""

    latencies_s: list[float]
    answers: list[str]
    seconds: float

    @property
    def per_s(self) -> float:
        """Requests completed per second."""
        return len(self.latencies_s) / self.seconds

    @property
    def p95_s(self) -> float:
        """The latency that 95 of 100 requests stay below."""
        return statistics.quantiles(self.latencies_s, n=20, method="inclusive")[-1]


def ask_alone(client: httpx.Client, requests: Sequence[Request]) -> Load:
    """Send each request when the one before is answered."""
    return ask_in_flight(client, requests, 1)


def ask_in_flight(client: httpx.Client, requests: Sequence[Request], in_flight: int) -> Load:
    """Send requests so that `in_flight` of them are always unanswered, until the last ones run out."""

    def ask(request: Request) -> tuple[float, str]:
        started = time.perf_counter()
        response = client.post("/v1/chat/completions", json=request.body())
        response.raise_for_status()
        return time.perf_counter() - started, response.json()["choices"][0]["message"]["content"]

    started = time.perf_counter()
    with ThreadPoolExecutor(in_flight) as pool:
        found = list(pool.map(ask, requests))
    return Load([latency for latency, _ in found], [answer for _, answer in found], time.perf_counter() - started)


def ask_in_turn(
    client: httpx.Client, first: Sequence[Request], second: Sequence[Request], in_flight: int
) -> tuple[Load, Load]:
    """Send each kind of requests twice, in an order in which what else is at work on the machine meets both alike."""
    loads: tuple[list[Load], list[Load]] = ([], [])
    for number, which in enumerate((0, 1, 1, 0)):
        asked = (first, second)[which]
        again = asked if number < 2 else [retold(request, "again") for request in asked]
        loads[which].append(ask_in_flight(client, again, in_flight))
    return _together(loads[0]), _together(loads[1])


def _together(loads: Sequence[Load]) -> Load:
    return Load(
        [latency for load in loads for latency in load.latencies_s],
        [answer for load in loads for answer in load.answers],
        sum(load.seconds for load in loads),
    )


def first_tokens(client: httpx.Client, requests: Sequence[Request]) -> Load:
    """Stream the answers, one at a time; the latencies are those of the first piece of text."""
    started = time.perf_counter()
    found = [_first_token(client, request) for request in requests]
    return Load([latency for latency, _ in found], [answer for _, answer in found], time.perf_counter() - started)


def _first_token(client: httpx.Client, request: Request) -> tuple[float, str]:
    started, latency, answer = time.perf_counter(), 0.0, ""
    with client.stream("POST", "/v1/chat/completions", json=request.body() | {"stream": True}) as response:
        response.raise_for_status()
        # read to its end: the step of an answer that was left would still run when the next request is asked
        for line in response.iter_lines():
            if not line.startswith("data: {"):
                continue
            for choice in json.loads(line.removeprefix("data: "))["choices"]:
                answer += choice["delta"].get("content") or ""
                # the opening delta is sent before anything is computed; it says nothing
                if not latency and (answer or choice.get("finish_reason")):
                    latency = time.perf_counter() - started
    if not latency:
        raise RuntimeError("a stream ended without a token")
    return latency, answer


def rounds_of(mixed: Sequence[Request]) -> dict[str, list[Request]]:
    """Return the requests of each round: no two rounds ask the same, so none is answered from memory of another."""
    one = [replace(request, model=mixed[0].model) for request in mixed]
    alone = one[: max(4, len(one) // 4)]
    rounds = {"first": alone, "one": one, "mixed": list(mixed), "one, crowd": one, "mixed, crowd": list(mixed)}
    told = {name: [retold(request, name) for request in requests] for name, requests in rounds.items()}
    return {"alone": alone, **told}


def retold(request: Request, word: str) -> Request:
    """Return the request with a mark before the person's words: as long as before, and new to every cache."""
    *before, last = request.messages
    return replace(request, messages=[*before, last | {"content": f"({word}) {last['content']}"}])

"""The load of the soak: users of several teams who ask in every way, hang up, and send nonsense; each notes its end.

Every request carries an id of ours, under which the ledger has it, so that both can be compared row by row.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

ANSWER, ERROR, HUNG_UP, BROKEN, WRONG = "answer", "error", "hung up", "broken", "wrong"
BATCH_LINE: Final = "batch line"
TIMEOUT_S: Final = 120.0
_TRIES: Final = 20
# What docs/api.md tells callers to expect; anything else is listed as wrong.
DOCUMENTED: Final = {
    400: {
        "invalid_json", "invalid_value", "unsupported_parameter", "missing_required_parameter", "unsupported_schema",
        "context_length_exceeded",
    },
    401: {"invalid_api_key"},
    404: {"model_not_found"},
    429: {"rate_limit_exceeded", "slow_down"},
    503: {"model_loading", "server_is_overloaded"},
    504: {"timeout"},
}  # fmt: skip
FIELDS: Final = {"queue": ["Access", "Network", "Printing"], "urgency": ["low", "high"]}
SCHEMA: Final = {
    "type": "object",
    "properties": {name: {"type": "string", "enum": values} for name, values in FIELDS.items()},
    "required": list(FIELDS),
    "additionalProperties": False,
}
_SENTENCES: Final = (
    "I cannot sign in.", "The VPN drops every hour.", "The printer on floor 7 is out of paper.", "It is urgent.",
    "Please reset my password.", "Nothing prints since this morning.", "My login is anna.k.", "Wi-Fi is slow.",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """How one request ended. `usage`: what the client was told; times are of `time.monotonic`."""

    kind: str
    request_id: str
    team: str
    result: str
    started: float
    ended: float
    status: int = 0
    code: str = ""
    usage: tuple[int, int] | None = None
    fingerprint: str = ""


@dataclass(frozen=True)
class User:
    """One of those who ask: with which token of which team, and which models."""

    url: str
    team: str
    token: str
    models: tuple[str, ...]


@dataclass
class Load:
    """All users at once, until somebody says that it is enough; collects how their requests ended."""

    users: list[User]
    seed: int
    outcomes: list[Outcome] = field(default_factory=list)
    batches: list[str] = field(default_factory=list)
    _ends: float = float("inf")

    async def run(self, seconds: float) -> None:
        """Ask for so long and wait for the last answers."""
        self._ends = time.monotonic() + seconds
        asking = [self._ask(user, _dice(self.seed, place)) for place, user in enumerate(self.users)]
        teams = {user.team: user for user in self.users}
        batches = [self._batches(user, _dice(self.seed, name)) for name, user in teams.items()]
        await asyncio.gather(*asking, *batches)

    def end(self) -> None:
        """Begin no more requests."""
        self._ends = 0.0

    async def _ask(self, user: User, draw: random.Random) -> None:
        async with client_of(user) as client:
            while time.monotonic() < self._ends:
                kind = draw.choices(list(KINDS), [weight for weight, _act in KINDS.values()])[0]
                outcome = await ended(kind, KINDS[kind][1], client, user, draw)
                self.outcomes.append(outcome)
                # Whoever is told to come back does so a little later, as clients do.
                await asyncio.sleep(draw.random() * (1.0 if outcome.result in (ERROR, BROKEN) else 0.1))

    async def _batches(self, user: User, draw: random.Random) -> None:
        """Order one batch after the other and note each of their lines."""
        async with client_of(user) as client:
            while time.monotonic() < self._ends:
                batch = _Batch(client, user, draw)
                try:
                    self.outcomes += await batch.answered()
                    self.batches.append(batch.ended)
                except TimeoutError as error:
                    self.batches.append(str(error))
                await asyncio.sleep(1)


def _dice(*seed: object) -> random.Random:
    return random.Random(" ".join(map(str, seed)))  # noqa: S311 - no secret


Asking = Callable[[httpx.AsyncClient, User, random.Random, str], Awaitable[dict[str, Any]]]


async def ended(kind: str, act: Asking, client: httpx.AsyncClient, user: User, draw: random.Random) -> Outcome:
    """Send one request and say how it ended, whatever that is."""
    request_id = f"soak-{uuid.UUID(int=draw.getrandbits(128)).hex}"
    started = time.monotonic()
    try:
        found = await act(client, user, draw, request_id)
    except httpx.TimeoutException:
        found = {"result": WRONG, "code": f"no end within {TIMEOUT_S:.0f} s"}
    except httpx.HTTPError as error:
        found = {"result": BROKEN, "code": type(error).__name__}
    except (KeyError, IndexError, TypeError, ValueError) as error:
        found = {"result": WRONG, "code": f"unreadable answer: {type(error).__name__} {error}"[:200]}
    return Outcome(kind, request_id, user.team, started=started, ended=time.monotonic(), **found)


def client_of(user: User) -> httpx.AsyncClient:
    """Return a client with a user's token."""
    headers = {"Authorization": f"Bearer {user.token}"}
    return httpx.AsyncClient(base_url=user.url, headers=headers, timeout=TIMEOUT_S, trust_env=False)


def _text(draw: random.Random) -> str:
    return " ".join(draw.choices(_SENTENCES, k=draw.randint(1, 4)))


def _chat(user: User, draw: random.Random, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": _text(draw)}]
    return {"model": draw.choice(user.models), "messages": messages, "max_tokens": draw.randint(4, 32), **more}


def _refusal(response: httpx.Response, content: bytes) -> dict[str, Any]:
    """Return the outcome of an answer that is not 200: right only if it is one of the documented errors."""
    try:
        error = json.loads(content)["error"]
        code, is_whole = str(error["code"]), bool(error["message"]) and {"type", "param"} <= set(error)
    except (ValueError, KeyError, TypeError):
        return {"result": WRONG, "status": response.status_code, "code": f"no error object: {content[:80]!r}"}
    is_known = is_whole and code in DOCUMENTED.get(response.status_code, ())
    return {"result": ERROR if is_known else WRONG, "status": response.status_code, "code": code}


def _usage(answer: dict[str, Any]) -> tuple[int, int]:
    usage = answer["usage"]
    prompt = usage["prompt_tokens"] if "prompt_tokens" in usage else usage["input_tokens"]
    return int(prompt), int(usage["total_tokens"]) - int(prompt)


async def whole(client: httpx.AsyncClient, path: str, body: dict[str, Any], request_id: str) -> dict[str, Any]:
    """Ask for a whole answer; an outcome with the answer under `answer` if there is one."""
    response = await client.post(path, json=body, headers={"X-Request-ID": request_id})
    if response.status_code != 200:
        return _refusal(response, response.content)
    answer = response.json()
    return {
        "result": ANSWER, "status": 200, "usage": _usage(answer), "answer": answer,
        "fingerprint": answer.get("system_fingerprint") or "",
    }  # fmt: skip


async def plain(client: httpx.AsyncClient, user: User, draw: random.Random, request_id: str) -> dict[str, Any]:
    """Ask for a whole answer of a conversation."""
    found = await whole(client, "chat/completions", _chat(user, draw), request_id)
    if answer := found.pop("answer", None):
        assert isinstance(answer["choices"][0]["message"]["content"], str)
    return found


async def schema(client: httpx.AsyncClient, user: User, draw: random.Random, request_id: str) -> dict[str, Any]:
    """Ask for an answer held to a schema: it follows it, or says that it was cut."""
    form = {"type": "json_schema", "json_schema": {"name": "ticket", "strict": True, "schema": SCHEMA}}
    found = await whole(client, "chat/completions", _chat(user, draw, response_format=form), request_id)
    if answer := found.pop("answer", None):
        choice = answer["choices"][0]
        if choice["finish_reason"] != "length":
            given = json.loads(choice["message"]["content"])
            if list(given) != list(FIELDS) or any(given[name] not in values for name, values in FIELDS.items()):
                return {**found, "result": WRONG, "code": "against its schema"}
    return found


async def completion(client: httpx.AsyncClient, user: User, draw: random.Random, request_id: str) -> dict[str, Any]:
    """Have a text continued."""
    body = {"model": draw.choice(user.models), "prompt": _text(draw), "max_tokens": draw.randint(4, 16)}
    found = await whole(client, "completions", body, request_id)
    if answer := found.pop("answer", None):
        assert isinstance(answer["choices"][0]["text"], str)
    return found


async def decision(client: httpx.AsyncClient, user: User, draw: random.Random, request_id: str) -> dict[str, Any]:
    """Have values scored; their probabilities add up to one."""
    questions = [
        {"type": "choice", "name": name, "choices": [{"value": value} for value in values]}
        for name, values in FIELDS.items()
    ]
    body = {"model": draw.choice(user.models), "input": _text(draw), "questions": questions}
    found = await whole(client, "decisions", body, request_id)
    if answer := found.pop("answer", None):
        for given in answer["answers"]:
            if abs(sum(one["probability"] for one in given.get("probabilities", [])) - 1) > 1e-6:
                return {**found, "result": WRONG, "code": "probabilities do not add up"}
    return found


async def stream(client: httpx.AsyncClient, user: User, draw: random.Random, request_id: str) -> dict[str, Any]:
    """Read a stream to its end."""
    return await _streamed(client, user, draw, request_id, most_events=None)


async def hang_up(client: httpx.AsyncClient, user: User, draw: random.Random, request_id: str) -> dict[str, Any]:
    """Leave before the answer is there: after some events of a stream, or while a whole one is made."""
    if draw.random() < 0.5:
        return await _streamed(client, user, draw, request_id, most_events=draw.randint(0, 4))
    asked = asyncio.create_task(whole(client, "chat/completions", _chat(user, draw), request_id))
    done, _waiting = await asyncio.wait([asked], timeout=draw.random() * 0.2)
    if done:
        return {name: value for name, value in asked.result().items() if name != "answer"}
    asked.cancel()
    with suppress(asyncio.CancelledError, httpx.HTTPError):
        await asked
    return {"result": HUNG_UP}


async def _streamed(
    client: httpx.AsyncClient, user: User, draw: random.Random, request_id: str, *, most_events: int | None
) -> dict[str, Any]:
    body = _chat(user, draw, stream=True, stream_options={"include_usage": True})
    found: dict[str, Any] = {"result": BROKEN, "status": 200, "code": "no [DONE]"}
    headers = {"X-Request-ID": request_id}
    async with client.stream("POST", "chat/completions", json=body, headers=headers) as response:
        if response.status_code != 200:
            return _refusal(response, await response.aread())
        count = 0
        async for line in response.aiter_lines():
            if not line.startswith("data: "):
                continue
            if line == "data: [DONE]":
                return found
            event = json.loads(line.removeprefix("data: "))
            if "error" in event:
                code = event["error"]["code"]
                is_known = any(code in codes for status, codes in DOCUMENTED.items() if status >= 500)
                found = {"result": ERROR if is_known else WRONG, "status": 200, "code": code}
            elif event.get("usage"):
                told = {"usage": _usage(event), "fingerprint": event.get("system_fingerprint") or ""}
                found = {"result": ANSWER, "status": 200, **told}
            count += 1
            if most_events is not None and count > most_events:
                return {"result": HUNG_UP, "status": 200}
    return {"result": BROKEN, "status": 200, "code": "no [DONE]"}


def _nonsense(user: User) -> list[tuple[int, str, Any, dict[str, str]]]:
    """Return bad requests with the status that each has to get."""
    chat = {"model": user.models[0], "messages": [{"role": "user", "content": "Hello"}]}
    remote = [{"type": "image_url", "image_url": {"url": "http://127.0.0.1/secret"}}]
    loose = {"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1/schema"}}}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": loose}}
    return [
        (400, "chat/completions", b'{"model": "x", "messages": [', {}),
        (400, "chat/completions", b"\xff\xfe\x00" * 50, {}),
        (400, "chat/completions", {**chat, "frobnicate": 1}, {}),
        (400, "chat/completions", {**chat, "tools": [{"type": "function", "function": {"name": "x"}}]}, {}),
        (400, "chat/completions", {**chat, "temperature": "warm"}, {}),
        (400, "chat/completions", {**chat, "messages": [{"role": "user", "content": remote}]}, {}),
        (400, "chat/completions", {**chat, "messages": [{"role": "user", "content": "long " * 20_000}]}, {}),
        (400, "chat/completions", {**chat, "response_format": form}, {}),
        (400, "decisions", {"model": user.models[0], "input": "Hello", "questions": []}, {}),
        (404, "chat/completions", {**chat, "model": "another-teams-model"}, {}),
        (401, "chat/completions", chat, {"Authorization": "Bearer tnp_0000000000_nobody"}),
    ]


async def nonsense(client: httpx.AsyncClient, user: User, draw: random.Random, request_id: str) -> dict[str, Any]:
    """Send what has to be refused, and look whether it is, by the right status."""
    expected, path, body, headers = draw.choice(_nonsense(user))
    sent = {"content": body} if isinstance(body, bytes) else {"json": body}
    response = await client.post(path, headers={"X-Request-ID": request_id, **headers}, **sent)
    found = _refusal(response, response.content)
    is_right = response.status_code == expected or (found["result"] == ERROR and response.status_code in (429, 503))
    return found if is_right else {**found, "result": WRONG, "code": f"{found['code']} instead of {expected}"}


# How often each happens, by weight.
KINDS: Final[dict[str, tuple[int, Asking]]] = {
    "plain": (5, plain),
    "stream": (5, stream),
    "schema": (4, schema),
    "completion": (2, completion),
    "decision": (2, decision),
    "hang-up": (2, hang_up),
    "nonsense": (2, nonsense),
}


@dataclass
class _Batch:
    """One batch from its file to its answers; what a dying server interrupts is asked again, as the SDK does."""

    client: httpx.AsyncClient
    user: User
    draw: random.Random
    ended: str = ""

    async def answered(self) -> list[Outcome]:
        """Order the batch, wait for its end and return how its lines ended. Raises: TimeoutError."""
        started = time.monotonic()
        lines = [
            {"custom_id": f"a{number}", "method": "POST", "url": "/v1/chat/completions", "body": self._body()}
            for number in range(self.draw.randint(4, 16))
        ]
        content = "\n".join(map(json.dumps, lines)).encode()
        key = {"Idempotency-Key": f"soak-{self.draw.getrandbits(64):x}"}
        files = {"file": ("asks.jsonl", content), "purpose": (None, "batch")}
        file = await self._sure("POST", "files", files=files, headers=key)
        order = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        batch = await self._sure(
            "POST", "batches", json=order, headers={"Idempotency-Key": key["Idempotency-Key"] + "b"}
        )
        while batch["status"] not in ("completed", "failed", "expired", "cancelled"):
            if time.monotonic() - started > 10 * TIMEOUT_S:
                raise TimeoutError(f"the batch is {batch['status']}")
            await asyncio.sleep(0.5)
            batch = await self._sure("GET", f"batches/{batch['id']}")
        self.ended = batch["status"]
        counts = batch["request_counts"]
        if counts["completed"] + counts["failed"] != len(lines):
            self.ended = f"{batch['status']} with {counts} of {len(lines)}"
        found: list[Outcome] = []
        for name in ("output_file_id", "error_file_id"):
            if batch[name]:
                text = (await self._request("GET", f"files/{batch[name]}/content")).text
                found += [self._outcome(json.loads(line), started) for line in text.splitlines()]
        return found

    def _body(self) -> dict[str, Any]:
        return _chat(self.user, self.draw)

    def _outcome(self, line: dict[str, Any], started: float) -> Outcome:
        response = line["response"]
        told: dict[str, Any] = {"result": ANSWER, "status": response["status_code"]}
        if response["status_code"] == 200:
            told["usage"] = _usage(response["body"])
        else:
            code = response["body"]["error"]["code"]
            told["code"] = code
            told["result"] = ERROR if code in DOCUMENTED.get(response["status_code"], ()) else WRONG
        ended = time.monotonic()
        return Outcome(BATCH_LINE, response["request_id"], self.user.team, started=started, ended=ended, **told)

    async def _sure(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        found: dict[str, Any] = (await self._request(method, path, **options)).json()
        return found

    async def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        last = ""
        for attempt in range(_TRIES):
            try:
                response = await self.client.request(method, path, **options)
                if response.status_code == 200:
                    return response
                last = f"{response.status_code} {response.text[:200]}"
            except httpx.TransportError as error:
                last = type(error).__name__
            await asyncio.sleep(min(0.5 * (attempt + 1), 3))
        raise TimeoutError(f"{method} {path}: {last}")

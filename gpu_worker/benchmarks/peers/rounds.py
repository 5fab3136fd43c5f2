"""The rounds of requests that every peer is asked, and the figures that come of them. Plain Python, for all of them.

A request is (adapter, token ids). A peer is a function of requests and how many may be in flight, which returns the
answers' token ids, the latencies and the times to the first token, in the order of the requests.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Request = tuple[int, list[int]]
Answered = tuple[list[list[int]], list[float], list[float]]
Peer = Callable[[list[Request], int], Answered]


def read_order() -> dict[str, Any]:
    """Return what the command line orders."""
    order: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    return order


def report(order: dict[str, Any], ways: dict[str, Peer], *, started: float, mixes: bool) -> None:
    """Ask all rounds in every way, print one line: the figures of each way by its name.

    `started`: when the process began, on the clock of the day; `mixes`: whether it serves several adapters.
    """
    first = next(iter(ways.values()))
    adapter, prompt = order["rounds"]["alone"][0]
    first([(adapter, list(prompt))], 1)
    cold_start_s = time.time() - started
    found = {}
    for name, answer in ways.items():
        found[name] = _figures(order, answer, mixes=mixes) | {"cold_start_s": cold_start_s}
    print("\n" + json.dumps(found), flush=True)


def _figures(order: dict[str, Any], answer: Peer, *, mixes: bool) -> dict[str, Any]:
    """Warm the peer up under every adapter, then ask all rounds; return the figures and each round's answers."""
    crowd, in_flight = order["crowd"], order["in_flight"]
    rounds: dict[str, list[Request]] = {
        name: [(adapter, list(prompt)) for adapter, prompt in requests] for name, requests in order["rounds"].items()
    }
    for adapter in range(order["adapter_count"] if mixes else 1):
        answer([(adapter, list(prompt)) for prompt in order["warm_up"]], in_flight)
    answers: dict[str, list[list[int]]] = {}
    answers["alone"], latencies, _ = answer(rounds["alone"], 1)
    answers["first"], _, firsts = answer(rounds["first"], 1)

    def rate(name: str, count: int) -> tuple[float, list[float]]:
        begun = time.perf_counter()
        answers[name], latencies, _ = answer(rounds[name], count)
        return len(latencies) / (time.perf_counter() - begun), latencies

    figures: dict[str, Any] = {
        "latency_s": statistics.median(latencies),
        "first_token_s": statistics.median(firsts),
        "one_adapter_per_s": rate("one", in_flight)[0],
        "crowd_one_per_s": rate("one, crowd", crowd)[0],
        "mixed_per_s": None,
        "mixed_p95_s": None,
        "answers": answers,
    }
    if mixes:
        figures["mixed_per_s"], all_latencies = rate("mixed", in_flight)
        figures["mixed_p95_s"] = statistics.quantiles(all_latencies, n=20, method="inclusive")[-1]
        figures["crowd_mixed_per_s"] = rate("mixed, crowd", crowd)[0]
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return figures | {"resident_bytes": pages * os.sysconf("SC_PAGE_SIZE")}

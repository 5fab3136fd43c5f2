"""What it costs that requests go to many adapters in turn instead of to one: nothing is loaded in between."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import httpx

from gpu_worker.benchmarks.serving_load import Request, ask_in_flight, ask_in_turn, retold
from gpu_worker.benchmarks.serving_workload import Conversation, vary

ADAPTERS = 10
WARM_UP = 2  # requests under each adapter: its part of the prompt that all share is computed then


@dataclass(frozen=True)
class Switching:
    """Seconds of the same requests, to one adapter and to ten in turn, by how many were in flight."""

    subject: str
    requests: int
    seconds: dict[int, tuple[float, float]]

    def sentence(self) -> str:
        """Return what it says, in Markdown."""
        told = ", ".join(
            f"{many / one - 1:+.1%} time {'one after the other' if in_flight == 1 else f'with {in_flight} in flight'}"
            for in_flight, (one, many) in self.seconds.items()
        )
        return (
            f"{self.subject}: {self.requests} requests to {ADAPTERS} adapters in turn, against the same requests to "
            f"one of them: {told}."
        )


def measure_switching(
    client: httpx.Client,
    requests: Sequence[Request],
    others: Sequence[Conversation],
    adapter: Path,
    folder: Path,
    *,
    subject: str,
    in_flight: Sequence[int],
    load: Callable[[httpx.Client, str, Path], object],
) -> Switching:
    """Load ten adapters, and ask one and all of them in turn, twice each, in an order that is fair to both.

    `requests`: to any adapter. `others`: conversations that warm up. `adapter`: what the ten are variations of.
    """
    names = [f"turn-{number}" for number in range(ADAPTERS)]
    for number, name in enumerate(names):
        target = folder / name
        load(client, name, target if target.exists() else vary(adapter, target, seed=number))
        warm_up = [replace(requests[0], model=name, messages=messages) for messages in others[:WARM_UP]]
        ask_in_flight(client, warm_up, 1)
    one = [replace(request, model=names[0]) for request in requests]
    many = [replace(request, model=names[place % ADAPTERS]) for place, request in enumerate(requests)]
    found = {}
    for crowd in in_flight:
        to_one, to_many = ([retold(request, str(crowd)) for request in requests] for requests in (one, many))
        of_one, of_many = ask_in_turn(client, to_one, to_many, crowd)
        found[crowd] = (of_one.seconds, of_many.seconds)
    return Switching(subject, len(requests), found)

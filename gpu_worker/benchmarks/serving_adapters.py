"""What it costs that requests go to many adapters in turn instead of to one: nothing is loaded in between."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx

from gpu_worker.benchmarks.serving_load import Request, ask_in_flight, ask_in_turn, retold
from gpu_worker.benchmarks.serving_page import agreed
from gpu_worker.benchmarks.serving_workload import Conversation, vary

ADAPTERS = 10
WARM_UP = 8  # requests in flight


@dataclass(frozen=True)
class Switching:
    """Seconds of the same requests, to one adapter and to ten in turn, by how many were in flight."""

    subject: str
    requests: int
    seconds: dict[int, tuple[float, float]]
    answers: list[str] = field(default_factory=list)

    def costs(self) -> dict[int, float]:
        """Return how much more time ten adapters take than one, by how many were in flight."""
        return {in_flight: many / one - 1 for in_flight, (one, many) in self.seconds.items()}

    def sentence(self, exact: "Switching") -> str:
        """Return what it says, in Markdown. `exact`: the same in exact arithmetic, whose answers are compared."""
        told = ", ".join(
            f"{cost:+.1%} time {'one after the other' if in_flight == 1 else f'with {in_flight} in flight'}"
            for in_flight, cost in self.costs().items()
        )
        same = "" if exact is self else f" {agreed(self.answers, exact.answers)} answers are those of {exact.subject}."
        return (
            f"{self.subject}: {self.requests} requests to {ADAPTERS} adapters in turn, against the same requests to "
            f"one of them: {told}.{same}"
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
        # as many for each: an engine learns what an adapter's answers look like
        ask_in_flight(client, [replace(requests[0], model=name, messages=messages) for messages in others], WARM_UP)
    one = [replace(request, model=names[0]) for request in requests]
    many = [replace(request, model=names[place % ADAPTERS]) for place, request in enumerate(requests)]
    found: dict[int, tuple[float, float]] = {}
    answers: list[str] = []
    for crowd in in_flight:
        to_one, to_many = ([retold(request, str(crowd)) for request in requests] for requests in (one, many))
        of_one, of_many = ask_in_turn(client, to_one, to_many, crowd)
        found[crowd] = (of_one.seconds, of_many.seconds)
        answers += [*of_one.answers, *of_many.answers]
    return Switching(subject, len(requests), found, answers)

"""The bars of serving: exact arithmetic, answers within the schema, held against what was measured in the same run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gpu_worker.benchmarks.bars import Bar

if TYPE_CHECKING:
    from gpu_worker.benchmarks.serving_adapters import Switching
    from gpu_worker.benchmarks.serving_page import Figures
    from gpu_worker.benchmarks.serving_steps import StepCost

OURS = "Tuneport engine, fp32, JSON schema"
PEER = "llama.cpp server, Q8_0 with LoRA in fp32"
WITHIN_SCHEMA = ", JSON schema"
WORDS = f"The bars hold for “{OURS}”; mixed adapters cost what the same requests take longer than under one."


def bars(
    rows: Sequence[Figures], exact_steps: Sequence[StepCost], switching: Switching, *, in_flight: int, crowd: int
) -> list[Bar]:
    """Return every bar of serving.

    `exact_steps`, `switching`: what decode steps and ten adapters in turn cost in fp32; `in_flight`, `crowd`: how many.
    """
    by_subject = {row.subject: row for row in rows}
    ours = by_subject.get(OURS)
    peer = by_subject.get(PEER + WITHIN_SCHEMA)
    slower = _ratio(_figure(ours, "latency_s"), _figure(peer, "latency_s"))
    more = _ratio(_figure(ours, "mixed_per_s"), _figure(peer, "mixed_per_s"))
    alike = f"{PEER.partition(',')[0]}'s, which keeps to the schema too"
    overhead = max((cost.overhead for cost in exact_steps), default=None)
    return [
        Bar.at_most(f"latency alone, to {alike}", 0.9, slower),
        Bar.at_least(f"requests/s with 3 mixed adapters, {in_flight} in flight, to {alike}", 2.5, more),
        Bar.at_most(f"mixed adapters cost against one, {in_flight} in flight", 0.1, _cost(ours), "{:.0%}"),
        Bar.at_most(f"mixed adapters cost against one, {crowd} in flight", 0.1, _crowd_cost(ours), "{:.0%}"),
        *(
            Bar.at_most(f"requests to 10 adapters in turn cost against one, {_told(count)}", 0.1, cost, "{:.0%}")
            for count, cost in switching.costs().items()
        ),
        Bar.at_most("first token alone, s", 0.15, _figure(ours, "first_token_s"), "{:.3f}"),
        Bar.at_most(f"p95 of mixed requests, {in_flight} in flight, s", 3.0, _figure(ours, "mixed_p95_s"), "{:.1f}"),
        Bar.at_most("hot add of an adapter, ms", 100, _times(_figure(ours, "hot_add_s"), 1e3), "{:.0f}"),
        Bar.at_most("cold start, s", 10.0, _figure(ours, "cold_start_s"), "{:.1f}"),
        Bar.at_most("resident, MB", 1200, _times(_figure(ours, "resident_bytes"), 1e-6), "{:,.0f}"),
        Bar.at_most("a decode step beyond its products, the most of those measured", 0.4, overhead, "{:.0%}"),
    ]


def _told(in_flight: int) -> str:
    return "one after the other" if in_flight == 1 else f"{in_flight} in flight"


def _ratio(own: float | None, other: float | None) -> float | None:
    return own / other if own is not None and other else None


def _cost(row: Figures | None) -> float | None:
    """Return how much more time mixed adapters take than one."""
    return _more_time(row.one_adapter_per_s, row.mixed_per_s) if row else None


def _crowd_cost(row: Figures | None) -> float | None:
    return _more_time(row.crowd_one_per_s, row.crowd_mixed_per_s) if row else None


def _more_time(one_per_s: float | None, mixed_per_s: float | None) -> float | None:
    return one_per_s / mixed_per_s - 1 if one_per_s and mixed_per_s else None


def _figure(row: Figures | None, name: str) -> float | None:
    found: float | None = getattr(row, name) if row else None
    return found


def _times(figure: float | None, factor: float) -> float | None:
    return None if figure is None else figure * factor

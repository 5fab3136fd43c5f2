"""The bars of training, held against what was measured in the same run."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpu_worker.benchmarks.bars import Bar

if TYPE_CHECKING:
    from gpu_worker.benchmarks.training import Measurement

STOCK, FP32, INT8, PEER = (
    "transformers Trainer + PEFT",
    "Tuneport, by hand, compiled",
    "Tuneport, by hand, compiled, int8",
    "LLaMA-Factory",
)
SAME_LOSS = 0.001
"""Losses that differ by less than this share are equal to three digits."""


@dataclass(frozen=True)
class LossPair:
    """Validation losses after the same training in exact and in 8-bit arithmetic."""

    exact: float
    rounded: float

    @property
    def above(self) -> float:
        """By which share the loss with 8 bits is above the exact one."""
        return self.rounded / self.exact - 1


def speed_of(rounds: Sequence[Measurement]) -> float:
    """Return the median of the useful tokens per second of all steps of all rounds."""
    return statistics.median(speed for one in rounds for speed in one.tokens_per_s)


def bars(
    measured: Sequence[Measurement], limit_shares: Mapping[str, float], pairs: Sequence[LossPair] = ()
) -> list[Bar]:
    """Return every bar of training.

    `limit_shares`: which part of the machine's limit each way of ours reaches; `pairs`: one for each initial adapter.
    """
    by_subject: dict[str, list[Measurement]] = {}
    for one in measured:
        by_subject.setdefault(one.subject, []).append(one)
    speeds = {subject: speed_of(rounds) for subject, rounds in by_subject.items()}
    above = statistics.mean(pair.above for pair in pairs) if pairs else None
    found = [
        Bar.at_least(f"{FP32}: speed to {STOCK}'s", 2.2, _ratio(speeds, FP32, STOCK)),
        Bar.at_most(f"{FP32}: losses from {STOCK}'s, apart", SAME_LOSS, _apart(by_subject), "{:.2%}"),
        Bar.at_least(f"{INT8}: speed to {STOCK}'s", 3.0, _ratio(speeds, INT8, STOCK)),
        Bar.at_most(f"{INT8}: validation loss above fp32's, mean of {len(pairs)} seeds", 0.03, above, "{:+.2%}"),
        Bar.at_least(f"{FP32}: speed to {PEER}'s", 2.0, _ratio(speeds, FP32, PEER)),
    ]
    found += [_memory(by_subject, ours, other) for ours in (FP32, INT8) for other in (STOCK, PEER)]
    found.append(Bar.at_least(f"{FP32}: share of the machine's limit", 0.55, limit_shares.get(FP32), "{:.0%}"))
    for ours in (FP32, INT8):
        start_up_s = [one.start_up_s for one in by_subject.get(ours, ())]
        slowest = max(start_up_s, default=None)
        found.append(Bar.at_most(f"{ours}: start-up to the first step, s, slowest round", 12.0, slowest, "{:.1f}"))
    return found


def _ratio(speeds: Mapping[str, float], ours: str, other: str) -> float | None:
    return speeds[ours] / speeds[other] if ours in speeds and other in speeds else None


def _apart(by_subject: Mapping[str, Sequence[Measurement]]) -> float | None:
    """Return how far exact arithmetic's losses are from the stock loop's, training or validation, whichever is more."""
    if FP32 not in by_subject or STOCK not in by_subject:
        return None
    ours, stock = by_subject[FP32][-1], by_subject[STOCK][-1]
    pairs = [(ours.train_loss, stock.train_loss)]
    if ours.validation_loss is not None and stock.validation_loss is not None:
        pairs.append((ours.validation_loss, stock.validation_loss))
    return max(abs(own - other) / other for own, other in pairs)


def rounding_words(pairs: Sequence[LossPair], *, steps: int) -> str:
    """Return a sentence on how far 8-bit arithmetic led from exact one."""
    each = ", ".join(f"{pair.exact:.4f} and {pair.rounded:.4f} ({pair.above:+.1%})" for pair in pairs)
    return (
        f"8-bit against exact arithmetic, both by hand and compiled, {steps} steps each from the same initial adapter "
        f"over the same rows in the same order, one pair of validation losses for each seed: {each}."
    )


def _memory(by_subject: Mapping[str, Sequence[Measurement]], ours: str, other: str) -> Bar:
    what = f"{ours}: peak memory, MB, below {other}'s"
    peaks = [max(one.peak_memory_bytes for one in by_subject[name]) for name in (ours, other) if name in by_subject]
    if len(peaks) < 2:
        return Bar(what, "less than that", "–", None)
    return Bar.less_than(what, peaks[1] / 1e6, peaks[0] / 1e6, "{:,.0f}")

"""The bars of training, held against what was measured in the same run."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
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


def speed_of(rounds: Sequence[Measurement]) -> float:
    """Return the median of the useful tokens per second of all steps of all rounds."""
    return statistics.median(speed for one in rounds for speed in one.tokens_per_s)


def bars(measured: Sequence[Measurement], limit_shares: Mapping[str, float]) -> list[Bar]:
    """Return every bar of training. `limit_shares`: which part of the machine's limit each way of ours reaches."""
    by_subject: dict[str, list[Measurement]] = {}
    for one in measured:
        by_subject.setdefault(one.subject, []).append(one)
    speeds = {subject: speed_of(rounds) for subject, rounds in by_subject.items()}
    stock_loss = _validation_loss(by_subject.get(STOCK))
    found = [
        Bar.at_least(f"{FP32}: speed to {STOCK}'s", 2.2, _ratio(speeds, FP32, STOCK)),
        Bar.at_most(f"{FP32}: losses from {STOCK}'s, apart", SAME_LOSS, _apart(by_subject), "{:.2%}"),
        Bar.at_least(f"{INT8}: speed to {STOCK}'s", 3.0, _ratio(speeds, INT8, STOCK)),
        Bar.at_most(
            f"{INT8}: validation loss above {STOCK}'s",
            0.03,
            _above(_validation_loss(by_subject.get(INT8)), stock_loss),
            "{:+.2%}",
        ),
        Bar.at_least(f"{FP32}: speed to {PEER}'s", 2.0, _ratio(speeds, FP32, PEER)),
    ]
    found += [_memory(by_subject, ours, other) for ours in (FP32, INT8) for other in (STOCK, PEER)]
    for ours in (FP32, INT8):
        found.append(Bar.at_least(f"{ours}: share of the machine's limit", 0.55, limit_shares.get(ours), "{:.0%}"))
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


def _above(own: float | None, other: float | None) -> float | None:
    return own / other - 1 if own is not None and other is not None else None


def _validation_loss(rounds: Sequence[Measurement] | None) -> float | None:
    return rounds[-1].validation_loss if rounds else None


def _memory(by_subject: Mapping[str, Sequence[Measurement]], ours: str, other: str) -> Bar:
    what = f"{ours}: peak memory, MB, below {other}'s"
    peaks = [max(one.peak_memory_bytes for one in by_subject[name]) for name in (ours, other) if name in by_subject]
    if len(peaks) < 2:
        return Bar(what, "less than that", "–", None)
    return Bar.less_than(what, peaks[1] / 1e6, peaks[0] / 1e6, "{:,.0f}")

"""Reads the curves of a run as an expert would, and says in plain words what they show and what to do next.

Pure rules over two series of losses. They compare medians of stretches and not single points, because the losses of
single batches jump by their nature; each margin is wide enough that such jumps do not change the answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise
from statistics import median

from django.utils.translation import gettext as _

Series = Sequence[tuple[int, float]]  # (step, loss in nats per label token), by step

SMOOTHING = 0.9
_STRETCHES = 10
_LEAST_POINTS = 20
_SHORT_RUN_POINTS = 6
# A loss below this is that of a model that answers nearly all by heart: its relative changes mean nothing.
_HARMLESS_LOSS = 0.1
_RISE = 1.5
_SPIKE, _LEAST_SPIKES, _AROUND = 2.5, 3, 5
_OVERFITTING_RISE, _SUDDEN_RISE = 1.05, 1.15
_LITTLE_GAIN, _JUDGED_FROM = 0.1, 0.25
# Noisy training losses may seem to fall by so much where the validation loss says that nothing is gained.
_LITTLE_NOISY_GAIN = 0.25


class Code(StrEnum):
    """What the curves show."""

    TOO_EARLY = "too_early"
    LEARNING_WELL = "learning_well"
    OVERFITTING = "overfitting"
    UNSTABLE = "unstable"
    RATE_TOO_LOW = "rate_too_low"


@dataclass(frozen=True)
class Hint:
    """What the curves show, since when (a step) where that matters, and words for people."""

    code: Code
    since_step: int | None = None
    has_ended: bool = False

    @property
    def tone(self) -> str:
        """How a notice about it looks."""
        return _TONES[self.code]

    @property
    def title(self) -> str:
        """What is seen, in two or three words."""
        return {
            Code.TOO_EARLY: _("Too short to tell") if self.has_ended else _("Too early to tell"),
            Code.LEARNING_WELL: _("Learning well"),
            Code.OVERFITTING: _("Overfitting"),
            Code.UNSTABLE: _("Unstable"),
            Code.RATE_TOO_LOW: _("Learning rate too low"),
        }[self.code]

    @property
    def why(self) -> str:
        """Which part of the curves says so."""
        facts = {"step": self.since_step}
        return {
            Code.TOO_EARLY: _("There are not enough steps to read anything from the loss."),
            Code.LEARNING_WELL: _("The training loss falls, and the validation loss does not rise."),
            Code.OVERFITTING: _(
                "The training loss still falls, but the validation loss has been rising since step %(step)s:"
                " the model learns its rows by heart."
            ),
            Code.UNSTABLE: _("The training loss jumps up or climbs instead of falling."),
            Code.RATE_TOO_LOW: _("The training loss has hardly fallen since the start."),
        }[self.code] % facts

    @property
    def next_step(self) -> str:
        """What to do about it."""
        return {
            Code.TOO_EARLY: _("Give it more epochs, or look at the quality report.")
            if self.has_ended
            else _("Wait a little; this line changes by itself."),
            Code.LEARNING_WELL: _("Look at the quality report.")
            if self.has_ended
            else _("Let it finish, then look at the quality report."),
            Code.OVERFITTING: _(
                "Keep the weights with the lowest validation loss, take fewer epochs, or give it more rows."
            ),
            Code.UNSTABLE: _("Start again with a third of the learning rate, a longer warm-up, or a larger batch."),
            Code.RATE_TOO_LOW: _("Start again with three times the learning rate, or with more epochs."),
        }[self.code]


_TONES = {
    Code.TOO_EARLY: "info",
    Code.LEARNING_WELL: "success",
    Code.OVERFITTING: "warning",
    Code.UNSTABLE: "danger",
    Code.RATE_TOO_LOW: "warning",
}


def read_curves(losses: Series, validation: Series, *, total_steps: int, has_ended: bool = False) -> Hint:
    """Return what the training losses and the validation losses of a run show, its worst sign first.

    `total_steps`: of the whole run, 0 if unknown. Points whose loss is not finite are signs of instability.
    """
    found = _read(losses, validation, total_steps=total_steps, has_ended=has_ended)
    return replace(found, has_ended=has_ended)


def _read(losses: Series, validation: Series, *, total_steps: int, has_ended: bool) -> Hint:
    if any(not math.isfinite(loss) for _step, loss in losses):
        return Hint(Code.UNSTABLE)
    least = _SHORT_RUN_POINTS if has_ended else _LEAST_POINTS
    if len(losses) < least:
        return Hint(Code.TOO_EARLY)
    courses = _stretches([loss for _step, loss in losses])
    if _climbs(courses) or _jumps([loss for _step, loss in losses]):
        return Hint(Code.UNSTABLE)
    best = _rising_since(losses, validation)
    if best is not None:
        return Hint(Code.OVERFITTING, best)
    last_step = losses[-1][0]
    is_judged = has_ended or not total_steps or last_step >= _JUDGED_FROM * total_steps
    if _gains_little(courses, validation):
        return Hint(Code.RATE_TOO_LOW if is_judged else Code.TOO_EARLY)
    return Hint(Code.LEARNING_WELL)


def smoothed(values: Sequence[float], weight: float = SMOOTHING) -> list[float]:
    """Return the exponential moving average, corrected for its start: the first value is itself, not a tenth of it.

    Source: the bias correction of Kingma and Ba 2014, arXiv:1412.6980, section 3.
    """
    found, total, share = [], 0.0, 0.0
    for value in values:
        total = total * weight + (1 - weight) * value
        share = share * weight + (1 - weight)
        found.append(total / share)
    return found


def _stretches(values: Sequence[float]) -> list[float]:
    """Return the medians of consecutive stretches: as many as there are points for, at most ten."""
    count = max(2, min(_STRETCHES, len(values) // 5))
    edges = [len(values) * number // count for number in range(count + 1)]
    return [median(values[low:high]) for low, high in pairwise(edges)]


def _climbs(courses: Sequence[float]) -> bool:
    """Tell whether the loss ends clearly above where it had been."""
    lowest, last = min(courses), courses[-1]
    return last > _RISE * lowest and last - lowest > _HARMLESS_LOSS


def _jumps(values: Sequence[float]) -> bool:
    """Tell whether single losses stand far out of their surroundings again and again."""
    spikes = 0
    for at, value in enumerate(values):
        around = median(values[max(0, at - _AROUND) : at + _AROUND + 1])
        spikes += value > _SPIKE * around and value - around > 5 * _HARMLESS_LOSS
    return spikes >= max(_LEAST_SPIKES, len(values) // 100)


def _rising_since(losses: Series, validation: Series) -> int | None:
    """Return the step of the lowest validation loss if it has clearly risen since while training went on, else None."""
    if len(validation) < 3:
        return None
    step, lowest = min(validation, key=lambda point: point[1])
    after = [loss for at, loss in validation if at > step]
    rises = len(after) >= 2 and min(after[-2:]) > lowest * _OVERFITTING_RISE
    jumped = bool(after) and after[-1] > lowest * _SUDDEN_RISE
    if not (rises or jumped) or after[-1] - lowest < _HARMLESS_LOSS / 5:
        return None
    before = [loss for at, loss in losses if at <= step][-10:]
    since = [loss for at, loss in losses if at > step][-10:]
    fell = bool(before and since) and median(since) < median(before)
    return step if fell else None


def _gains_little(courses: Sequence[float], validation: Series) -> bool:
    """Tell whether the curves have hardly fallen, though there was something to learn: the calmer one decides."""
    first, last = courses[0], courses[-1]
    if first < 3 * _HARMLESS_LOSS:
        return False
    # The untuned model's own loss tells what the first stretch of training losses has passed over already.
    if len(validation) < 2:
        return last > (1 - _LITTLE_GAIN) * first
    measured = validation[-1][1] > (1 - _LITTLE_GAIN) * validation[0][1]
    return measured and last > (1 - _LITTLE_NOISY_GAIN) * first

"""Which thresholds a run's report recommends: the least confidence from which on answers are right often enough."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from deployments.decidable import LEAST_FITTED_ROWS
from experiments.models import Evaluation

TARGET: Final = 0.95
_PLACES: Final = 10_000


@dataclass(frozen=True)
class FieldAdvice:
    """One field's threshold for TARGET, None if none reaches it, and what it brought on the held-out rows.

    `share` of the answers is kept, of which `precision` are right, None if none was kept.
    """

    name: str
    threshold: float | None
    share: float
    precision: float | None

    @property
    def shown(self) -> str:
        """The threshold as it is written, '' without one."""
        return f"{self.threshold:g}" if self.threshold is not None else ""

    @property
    def line(self) -> str:
        """The threshold as the form takes it, '' without one."""
        return f"{self.name} = {self.shown}" if self.shown else ""


@dataclass(frozen=True)
class Advice:
    """What a report recommends for each field whose confidence is calibrated."""

    fields: tuple[FieldAdvice, ...] = ()

    @property
    def lines(self) -> str:
        """All thresholds as the form takes them, '' if there are none."""
        return "\n".join(field.line for field in self.fields if field.line)


def advice_of(evaluation: Evaluation | None) -> Advice:
    """Return what a report recommends; nothing without one."""
    learned = evaluation.report.get("calibration") or [] if evaluation is not None else []
    found = []
    for one in learned:
        at_target = next((cut for cut in one["abstention"] if cut["target"] == TARGET), None)
        if at_target is not None and one["fitted_rows"] >= LEAST_FITTED_ROWS:
            threshold = at_target["threshold"]
            # Rounded down, so that what the report kept is kept; its 1 is a confidence that was rounded up.
            least = None if threshold is None else min(math.floor(threshold * _PLACES), _PLACES - 1) / _PLACES
            found.append(FieldAdvice(one["name"], least, at_target["share"], at_target["precision"]))
    return Advice(tuple(found))

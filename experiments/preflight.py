"""How long a whole run will take, how much memory it needs and what it costs, told from the few steps of its trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from django.conf import settings

from experiments.estimates import cost_of
from experiments.models import Run
from experiments.storable import storable_number

# The bar that the prediction is held to; also how far apart the two ends of the shown range are.
TOLERANCE = 0.25
_NEEDED = ("seconds_per_token", "tokens_per_step", "total_steps", "start_up_s", "peak_memory_bytes")


@dataclass(frozen=True)
class Prediction:
    """Seconds of a node for start-up, steps and validation checks; bytes at the peak; cost in `currency` or None.

    The quality report is not in it: its time depends on how long the tuned model's answers get.
    """

    seconds: float
    least_seconds: float
    most_seconds: float
    peak_memory_bytes: int
    total_steps: int
    tokens_per_s: float
    cost: float | None
    currency: str

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)


def prediction_of(run: Run) -> Prediction | None:
    """Return what the trial tells about the whole run; None for other runs and before it has ended."""
    if not run.is_preflight:
        return None
    return predict(
        run.facts.get("preflight", {}),
        max_minutes=storable_number(run.hyperparameters.get("max_minutes")),
        price_per_hour=settings.NODE_HOUR_PRICE,
        currency=settings.NODE_HOUR_CURRENCY,
    )


def predict(
    measured: Mapping[str, Any], *, max_minutes: float | None, price_per_hour: float, currency: str = ""
) -> Prediction | None:
    """Return the prediction from what the trainer measured, or None if something is missing.

    Steps take as long as their tokens do at the typical pace; each validation check takes as long as the one measured.
    """
    figures = {name: storable_number(measured.get(name)) for name in (*_NEEDED, "validation_s", "validation_checks")}
    if any(figures[name] is None for name in _NEEDED):
        return None
    known = {name: float(value or 0.0) for name, value in figures.items()}
    steps_s = known["total_steps"] * known["tokens_per_step"] * known["seconds_per_token"]
    learning_s = steps_s + known["validation_checks"] * known["validation_s"]
    if max_minutes is not None:
        learning_s = min(learning_s, max_minutes * 60)
    seconds = known["start_up_s"] + learning_s
    pace = known["seconds_per_token"]
    return Prediction(
        seconds=seconds,
        least_seconds=seconds * (1 - TOLERANCE),
        most_seconds=seconds * (1 + TOLERANCE),
        peak_memory_bytes=int(known["peak_memory_bytes"]),
        total_steps=int(known["total_steps"]),
        tokens_per_s=1 / pace if pace else 0.0,
        cost=cost_of(seconds, price_per_hour),
        currency=currency,
    )

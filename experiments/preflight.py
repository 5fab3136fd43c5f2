"""How long a whole run will take, how much memory it needs and what it costs, told from the few steps of its trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from django.conf import settings
from django.utils.translation import gettext as _

from experiments.estimates import cost_of
from experiments.models import Run
from experiments.storable import storable_number
from experiments.trials import (
    CHILD_MEMORY_SHARE,
    LEAST_CALIBRATION_ROWS,
    LEAST_SCORING_S,
    MOST_LIKELIHOOD_ROWS,
    SCORING_SHARE,
    VALIDATION_SHARE,
    asked_next,
    asking_limit_s,
)
from portal.models import Node

# The bar that the prediction is held to; also how far apart the two ends of the shown range are.
TOLERANCE = 0.25
_NEEDED = ("seconds_per_token", "tokens_per_step", "total_steps", "start_up_s", "peak_memory_bytes")
_OPTIONAL = (
    "validation_s", "validation_checks", "checkpoints", "checkpoint_s", "imports_s", "answering_build_s",
    "answering_row_s", "untuned_row_s", "scored_row_s", "likelihood_row_s", "baseline_s", "sampled_rows",
    "evaluated_rows", "calibration_rows", "written_rows", "sure_rows",
)  # fmt: skip
# Scoring looks after a few rows whether there is time for all.
_ROWS_TRIED = 8


@dataclass(frozen=True)
class Prediction:
    """Seconds of a node for start-up, steps, validation checks with their answers, checkpoints and the quality report.

    `evaluation_s`: what of it the quality report takes; None if the trial could not tell, then it comes on top.
    Bytes at the peak, of one process; cost in `currency` or None. `fits_on`, `too_large_for`: names of the nodes that
    are there, by whether the peak is within what a process may take: one GPU's memory, or its share of a machine's.
    """

    seconds: float
    least_seconds: float
    most_seconds: float
    peak_memory_bytes: int
    total_steps: int
    tokens_per_s: float
    evaluation_s: float | None
    cost: float | None
    currency: str
    fits_on: tuple[str, ...] = ()
    too_large_for: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)


def prediction_of(run: Run) -> Prediction | None:
    """Return what the trial tells about the whole run; None for other runs and before it has ended."""
    if not run.is_preflight:
        return None
    found = predict(
        run.facts.get("preflight", {}),
        max_minutes=storable_number(run.hyperparameters.get("max_minutes")),
        price_per_hour=settings.NODE_HOUR_PRICE * run.gpus,
        currency=settings.NODE_HOUR_CURRENCY,
    )
    if found is None:
        return None
    room = _room_of_nodes(run)
    peak = found.peak_memory_bytes
    return replace(
        found,
        fits_on=tuple(name for name, most in room.items() if peak <= most),
        too_large_for=tuple(name for name, most in room.items() if peak > most),
    )


def _room_of_nodes(run: Run) -> dict[str, float]:
    """Return how many bytes each process of a run may take, on each open node of the kind that its trial was on."""
    on_gpu = run.facts.get("started", {}).get("device") == "cuda"
    nodes = Node.objects.open().filter(memory_bytes__gt=0).order_by("name")
    return {
        node.name: node.memory_of_a_gpu if on_gpu else CHILD_MEMORY_SHARE * node.memory_bytes / run.gpus
        for node in nodes
        if node.has_gpus is on_gpu
    }


def memory_sentence(prediction: Prediction) -> str:
    """Return on which nodes the whole run has room; empty where no node of its kind is there."""
    fits, too_small = ", ".join(prediction.fits_on), ", ".join(prediction.too_large_for)
    if not too_small:
        return _("It fits into the memory of %(nodes)s.") % {"nodes": fits} if fits else ""
    advice = _("Smaller micro-batches, shorter rows or gradient checkpointing need less.")
    if not fits:
        return _("It does not fit into the memory of %(nodes)s.") % {"nodes": too_small} + f" {advice}"
    said = _("It fits into the memory of %(nodes)s, but not into that of %(others)s.")
    return said % {"nodes": fits, "others": too_small} + f" {advice}"


def predict(
    measured: Mapping[str, Any], *, max_minutes: float | None, price_per_hour: float, currency: str = ""
) -> Prediction | None:
    """Return the prediction from what the trainer measured, or None if something is missing.

    Steps take as long as their tokens do at the typical pace; each validation check, checkpoint and answered row takes
    as long as the one measured. A time limit bounds what is learned, not the report after it.
    """
    figures = {name: storable_number(measured.get(name)) for name in (*_NEEDED, *_OPTIONAL)}
    if any(figures[name] is None for name in _NEEDED):
        return None
    known = {name: float(value or 0.0) for name, value in figures.items()}
    steps_s = known["total_steps"] * known["tokens_per_step"] * known["seconds_per_token"]
    learning_s = steps_s + known["validation_checks"] * known["validation_s"] + _answers_s(known, steps_s)
    if max_minutes is not None:
        learning_s = min(learning_s, max_minutes * 60)
    evaluation_s = _evaluation_s(known, learning_s)
    saving_s = (known["checkpoints"] + 1) * known["checkpoint_s"]  # and the adapter at the end
    seconds = known["start_up_s"] + learning_s + saving_s + (evaluation_s or 0.0)
    pace = known["seconds_per_token"]
    return Prediction(
        seconds=seconds,
        least_seconds=seconds * (1 - TOLERANCE),
        most_seconds=seconds * (1 + TOLERANCE),
        peak_memory_bytes=int(known["peak_memory_bytes"]),
        total_steps=int(known["total_steps"]),
        tokens_per_s=1 / pace if pace else 0.0,
        evaluation_s=evaluation_s,
        cost=cost_of(seconds, price_per_hour),
        currency=currency,
    )


def _answers_s(known: Mapping[str, float], steps_s: float) -> float:
    """Return what answering rows at the validation checks takes: as much as there is, within the trainer's share.

    At the first check nothing is learned yet, so nothing is asked.
    """
    asked = known["validation_checks"] - 1
    if asked <= 0 or not known["sampled_rows"] or not known["answering_row_s"]:
        return 0.0
    losses_s = known["validation_checks"] * known["validation_s"]
    wanted = asked * (known["answering_build_s"] + known["sampled_rows"] * known["answering_row_s"])
    # a share of all, and what answering takes is itself part of all
    allowed = (VALIDATION_SHARE * (steps_s + losses_s) - losses_s) / (1 - VALIDATION_SHARE)
    return max(0.0, min(wanted, allowed))


def _evaluation_s(known: Mapping[str, float], training_s: float) -> float | None:
    """Return what the quality report takes: a process of its own starts, builds an engine, and asks in several ways.

    The tuned model answers as long as the right answers are, the untuned one at its own length; answers that follow the
    schema by themselves are not asked for again.
    """
    if not known["answering_row_s"] or not known["evaluated_rows"]:
        return None
    row_s = known["answering_row_s"] + (known["untuned_row_s"] or known["answering_row_s"])
    every = int(known["evaluated_rows"])
    rows = int(known["sure_rows"]) or every
    while more := asked_next(every, rows, row_s, asking_limit_s(training_s)):
        rows += more
    asking_s = rows * row_s
    asking_s += known["written_rows"] * known["answering_row_s"]
    likelihood_s = min(rows, MOST_LIKELIHOOD_ROWS) * known["likelihood_row_s"]
    starting_s = (known["imports_s"] or known["start_up_s"]) + known["answering_build_s"]
    return starting_s + asking_s + _scoring_s(known, rows, asking_s) + likelihood_s + known["baseline_s"]


def _scoring_s(known: Mapping[str, float], rows: float, asking_s: float) -> float:
    """Return what scoring the allowed values takes: all rows if there is time for the needed ones, else a few."""
    spare, row_s = known["calibration_rows"], known["scored_row_s"]
    limit_s = max(LEAST_SCORING_S, SCORING_SHARE * asking_s)
    needed_s = (rows + min(spare, LEAST_CALIBRATION_ROWS)) * row_s
    if needed_s > limit_s:
        return min(rows, _ROWS_TRIED) * row_s
    return max(needed_s, min(limit_s, (rows + spare) * row_s))

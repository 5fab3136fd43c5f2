"""What the page of a run explains besides its raw figures: a hint, the rows it learns from, figures as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext as _

from datasets_app.preview import SeenRow
from datasets_app.rendering import Piece
from experiments.hints import Hint, read_curves, smoothed
from experiments.models import FirstBatch, Run, RunSample

_TABLE_ROWS = 40
# Shares that the trainer may measure beside the validation loss, drawn on the right axis of the same picture.
_QUALITY = (
    "validation_exact_match", "validation_bound_exact_match", "validation_json_valid", "validation_macro_f1",
)  # fmt: skip
_SHOWN_CHECKS = 5
_RECENT = 50


Points = Sequence[tuple[int, Mapping[str, Any]]]  # (step, figures by name), by step


def points_of(run: Run) -> Points:
    """Return everything that was measured, in one query."""
    return list(run.metrics.order_by("step").values_list("step", "values"))


def losses_of(run: Run) -> Points:
    """Return both losses alone, for what is asked again and again while a run works."""
    known = run.metrics.order_by("step").values_list("step", "values__loss", "values__validation_loss")
    return [(step, {"loss": loss, "validation_loss": validation}) for step, loss, validation in known]


def latest_of(points: Points) -> dict[str, Any]:
    """Return the newest value of every figure, as far as it is not old."""
    values: dict[str, Any] = {}
    for _step, known in points[-_RECENT:]:
        values |= {name: value for name, value in known.items() if value is not None}
    return values


def recent_points(run: Run) -> Points:
    """Return the points that `latest_of` looks at."""
    return list(run.metrics.order_by("-step").values_list("step", "values")[:_RECENT])[::-1]


def with_losses(latest: Mapping[str, Any], losses: Points) -> dict[str, Any]:
    """Return the newest figures with the newest losses, however long ago: validation losses are measured rarely."""
    newest = {name: known[-1][1] for name in ("loss", "validation_loss") if (known := _series(losses, name))}
    return {**latest, **newest}


def hint_for(run: Run, points: Points) -> Hint | None:
    """Return what the curves of a run show so far; None before it has begun to learn."""
    losses = _series(points, "loss")
    if not losses:
        return None
    return read_curves(
        losses, _series(points, "validation_loss"), total_steps=run.total_steps, has_ended=run.is_terminal
    )


def _series(points: Points, name: str) -> list[tuple[int, float]]:
    return [(step, values[name]) for step, values in points if values.get(name) is not None]


def learned_rows(run: Run) -> list[SeenRow]:
    """Return the rows of the first batch as the page shows tokens; empty until the trainer has told them."""
    kept: FirstBatch | None = getattr(run, "first_batch", None)
    return [_seen(row) for row in kept.rows] if kept else []


def samples_of(run: Run) -> list[RunSample]:
    """Return what the model answered to validation rows at the checks, the newest check first."""
    return list(run.samples.order_by("-step")[:_SHOWN_CHECKS])


def rows_state(run: Run) -> str:
    """Return a mark that changes when there are other rows or answers to show."""
    newest = run.samples.order_by("-step").values_list("step", flat=True).first()
    return f"{int(hasattr(run, 'first_batch'))}-{newest if newest is not None else ''}"


def _seen(row: dict[str, Any]) -> SeenRow:
    counts = row.get("given_tokens", 0), row.get("learned_tokens", 0)
    more = tuple(_turn(turn) for turn in row.get("more", ()))
    return SeenRow(None, *_turn(row), *counts, is_cut=bool(row.get("is_cut")), more=more)


def _turn(row: dict[str, Any]) -> tuple[tuple[Piece, ...], tuple[Piece, ...]]:
    given, learned = (tuple(Piece(text, tokens) for text, tokens in row.get(part, ())) for part in ("given", "learned"))
    return given, learned


@dataclass(frozen=True)
class FiguresRow:
    """One line of the plain table: a step and what was measured there; None where nothing was."""

    step: int
    loss: float | None
    smoothed: float | None
    validation_loss: float | None
    learning_rate: float | None
    tokens_per_s: float | None


def figures_table(points: Points) -> list[FiguresRow]:
    """Return the course of a run thinned out to a readable table; every validation check is kept, as far as it fits."""
    known = _series(points, "loss")
    course = dict(zip([step for step, _loss in known], smoothed([loss for _step, loss in known]), strict=True))
    stride = max(1, len(points) // _TABLE_ROWS)
    kept = [
        (step, values)
        for at, (step, values) in enumerate(points)
        if at % stride == 0 or at == len(points) - 1 or values.get("validation_loss") is not None
    ]
    names = ("validation_loss", "learning_rate", "tokens_per_s")
    return [
        FiguresRow(step, values.get("loss"), course.get(step), *(values.get(name) for name in names))
        for step, values in kept[-3 * _TABLE_ROWS :]
    ]


def measured_quality(points: Points) -> str:
    """Return which shares were measured at validation checks, as the chart wants them: "name=Label,name=Label"."""
    labels = {
        "validation_exact_match": _("Exact match"),
        "validation_bound_exact_match": _("Exact match with schema"),
        "validation_json_valid": _("Valid JSON"),
        "validation_macro_f1": _("Macro-F1"),
    }
    present = [name for name in _QUALITY if _series(points, name)]
    return ",".join(f"{name}={labels[name]}" for name in present)

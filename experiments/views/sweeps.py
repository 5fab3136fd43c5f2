"""A sweep: its runs with their values and results side by side, and stopping all of them."""

from __future__ import annotations

import math
import uuid
from dataclasses import dataclass

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from experiments import sweeps
from experiments.hyperparameter_words import fields_in_words, value_words
from experiments.hyperparameters import FieldInfo
from experiments.models import Run, Sweep
from experiments.sweep_figures import Outcome, by_value
from portal.access import TeamRequest, team_view
from portal.actors import Actor
from portal.models import Role

# More lines than colours cannot be told apart.
_MOST_LINES = 6


@dataclass(frozen=True)
class SweepRow:
    """One run of a sweep as the table shows it; `values` are (label, value) pairs."""

    run: Run
    values: list[tuple[str, str]]
    validation_loss: float | None
    exact_match: float | None
    is_best: bool
    was_stopped_early: bool


def _sweep_of(request: TeamRequest, pk: uuid.UUID) -> Sweep:
    found: Sweep = get_object_or_404(request.team.sweeps.select_related("experiment"), pk=pk)
    return found


@team_view()
def sweep(request: TeamRequest, pk: uuid.UUID) -> HttpResponse:
    """Show the runs of a sweep, the best one marked; asked again by itself while some have not ended."""
    found = _sweep_of(request, pk)
    runs = list(found.runs.select_related("evaluation", "experiment").order_by("number"))
    known = {info.name: info for info in fields_in_words()}
    infos = [known[name] for name in found.values if name in known]  # what may be chosen may have changed since
    rows = _rows(runs, infos)
    drawn = sorted(rows, key=_by_interest)[:_MOST_LINES]
    context = {
        "sweep": found,
        "labels": [info.label for info in infos],
        "rows": rows,
        "figures": by_value({info.name: info.label for info in infos}, [_outcome(row, infos) for row in rows]),
        "sources": [
            {"label": f"#{row.run.number}", "url": reverse("experiments:metrics", args=[request.team.slug, row.run.pk])}
            for row in drawn
        ],
        "is_partly_drawn": len(drawn) < len(rows),
        "is_open": any(not run.is_terminal for run in runs),
    }
    return render(request, "experiments/sweep.html", context)


def _by_interest(row: SweepRow) -> tuple[bool, float, int]:
    """Return what sorts the runs for the chart: those with the lowest losses first, those not yet begun last."""
    loss = row.validation_loss
    return row.run.started_at is None, math.inf if loss is None else loss, row.run.number


def _outcome(row: SweepRow, infos: list[FieldInfo]) -> Outcome:
    return Outcome(
        number=row.run.number,
        values={info.name: row.run.hyperparameters.get(info.name) for info in infos},
        words={info.name: value for info, (_label, value) in zip(infos, row.values, strict=True)},
        validation_loss=row.validation_loss,
        exact_match=row.exact_match,
        is_best=row.is_best,
    )


def _rows(runs: list[Run], infos: list[FieldInfo]) -> list[SweepRow]:
    best, courses = sweeps.best_of(runs), sweeps.courses(runs)
    return [
        SweepRow(
            run=run,
            values=[(info.label, value_words(info, run.hyperparameters.get(info.name))) for info in infos],
            validation_loss=min((loss for _share, loss in courses.get(run.pk, [])), default=None),
            exact_match=run.exact_match,
            is_best=best is not None and run.pk == best.pk,
            was_stopped_early=sweeps.was_stopped_early(run),
        )
        for run in runs
    ]


@team_view(role=Role.EDITOR)
def cancel(request: TeamRequest, pk: uuid.UUID) -> HttpResponse:
    """Ask whether to stop all runs of a sweep, and stop them."""
    found = _sweep_of(request, pk)
    if request.method == "POST":
        count = sweeps.cancel_sweep(sweep=found, actor=Actor.of(request))
        words = ngettext("%(count)d run stops.", "%(count)d runs stop.", count) % {"count": count}
        messages.success(request, words)
        return redirect("experiments:sweep", request.team.slug, found.pk)
    context = {
        "title": _("Stop all runs of this sweep?"),
        "message": _(
            "Waiting runs never start; running ones stop after their current step and keep what they learned."
        ),
        "action": _("Stop all"),
        "cancel_url": request.path.removesuffix("cancel/"),
        "danger": True,
    }
    return render(request, "components/confirm.html", context)

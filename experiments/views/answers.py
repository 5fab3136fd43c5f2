"""The held-out rows behind a quality report: all of them, the wrong ones, or those of a cell of a confusion matrix."""

from __future__ import annotations

import uuid
from typing import Any

from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import Http404, HttpResponse, QueryDict
from django.shortcuts import render
from django.utils.http import urlencode

from experiments.cells import Cell, answers_in
from experiments.models import EvaluatedRow, Evaluation
from experiments.scoring.names import SUBJECTS
from experiments.verdicts import short_label
from experiments.views.runs import run_of
from portal import audit
from portal.access import TeamRequest, team_view
from portal.actors import Actor

_PER_PAGE = 10
_ORDERS = {
    "worst": ("tuned_score", "row", "pk"),
    "best": ("-tuned_score", "row", "pk"),
    "random": ("?",),
    "row": ("row", "pk"),
}


@team_view()
def rows(request: TeamRequest, pk: uuid.UUID) -> HttpResponse:
    """Show held-out rows with all answers: `?field=&expected=&answered=` for a cell, `?show=wrong` for what differs."""
    run = run_of(request, pk)
    evaluation: Evaluation | None = getattr(run, "evaluation", None)
    if evaluation is None:
        raise Http404
    cell = _cell(request.GET)
    context = {
        "run": run,
        "evaluation": evaluation,
        "cell": cell,
        "anchor": table_anchor(cell.field) if cell else "rows",
        **answers_context(evaluation, request.GET, cell),
    }
    audit.read(request.team, Actor.of(request), "run.answers_read", run)
    return render(request, "experiments/answers.html", context)


def answers_context(evaluation: Evaluation, asked: QueryDict, cell: Cell | None = None) -> dict[str, Any]:
    """Return what shows a page of the answers in the order that was asked for. Raises: Http404 for an unknown cell."""
    order = asked.get("order", "worst")
    order = order if order in _ORDERS else "worst"
    only_wrong = asked.get("show") == "wrong"
    answers = _in_cell(evaluation, cell)
    if only_wrong:
        answers = answers.filter(is_exact=False)
    page = Paginator(answers.order_by(*_ORDERS[order]), _PER_PAGE).get_page(asked.get("page"))
    shown = [(answer, _others(answer)) for answer in page]
    return {"page": page, "shown_rows": shown, "order": order, "only_wrong": only_wrong}


def cell_query(field: str | None, expected: str, answered: str | None = None) -> str:
    """Return the query that asks for a cell, or for all rows of an expected class."""
    named = {"field": field, "expected": expected, "answered": answered}
    return urlencode({name: value for name, value in named.items() if value is not None})


def table_anchor(field: str | None) -> str:
    """Return the place of a confusion on the quality page; names of fields may be anything, so it is not one."""
    return "confusion-of-label" if field is None else f"confusion-{uuid.uuid5(uuid.NAMESPACE_URL, field).hex[:12]}"


def _cell(asked: QueryDict) -> Cell | None:
    expected = asked.get("expected")
    return None if expected is None else Cell(asked.get("field"), expected, asked.get("answered"))


def _in_cell(evaluation: Evaluation, cell: Cell | None) -> QuerySet[EvaluatedRow]:
    if cell is None:
        return evaluation.answers.all()
    found = answers_in(evaluation, cell)
    if found is None:
        raise Http404
    return evaluation.answers.filter(pk__in=found)


def _others(answer: EvaluatedRow) -> list[tuple[str, str]]:
    """Return who else answered the row, and what."""
    return [(short_label(name), answer.others[name]) for name in SUBJECTS if name in answer.others]

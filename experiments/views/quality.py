"""How well a run's model answers rows it has never seen, next to the untuned model."""

from __future__ import annotations

import csv
import uuid
from collections.abc import Iterator
from typing import Any

from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import Http404, HttpResponse, StreamingHttpResponse
from django.shortcuts import render

from experiments.models import EvaluatedRow, Evaluation
from experiments.verdicts import verdict_of
from experiments.views.runs import run_of
from portal.access import TeamRequest, team_view
from portal.rls import team_scope

_PER_PAGE = 10
_ORDERS = {
    "worst": ("tuned_score", "row"),
    "best": ("-tuned_score", "row"),
    "random": ("?",),
    "row": ("row",),
}
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


@team_view()
def report(request: TeamRequest, pk: uuid.UUID) -> HttpResponse:
    """Show the quality report and the rows behind it: the worst, the best, or some at random."""
    run = run_of(request, pk)
    evaluation: Evaluation | None = getattr(run, "evaluation", None)
    context: dict[str, Any] = {"run": run, "evaluation": evaluation, "adapter": getattr(run, "adapter", None)}
    if evaluation is not None:
        order = request.GET.get("rows", "worst")
        order = order if order in _ORDERS else "worst"
        answers = _filtered(evaluation, request.GET.get("show", ""))
        page = Paginator(answers.order_by(*_ORDERS[order]), _PER_PAGE).get_page(request.GET.get("page"))
        context |= {"report": evaluation.report, "verdict": verdict_of(evaluation), "page": page, "order": order}
    return render(request, "experiments/quality.html", context)


def _filtered(evaluation: Evaluation, show: str) -> QuerySet[EvaluatedRow]:
    answers = evaluation.answers.all()
    return answers.filter(is_exact=False) if show == "wrong" else answers


@team_view(streams=True)
def predictions(request: TeamRequest, pk: uuid.UUID) -> StreamingHttpResponse:
    """Download the held-out rows with both answers as CSV; cells that a spreadsheet would run are made harmless."""
    with team_scope(request.team.pk):
        evaluation = getattr(run_of(request, pk), "evaluation", None)
        if evaluation is None:
            raise Http404
        rows = list(evaluation.answers.order_by("row"))
    response = StreamingHttpResponse(_csv_lines(rows), content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="predictions-{pk}.csv"'
    return response


class _Echo:
    """A file that hands back what is written to it."""

    def write(self, text: str) -> str:
        return text


def _csv_lines(rows: list[EvaluatedRow]) -> Iterator[str]:
    writer = csv.writer(_Echo())
    yield writer.writerow(["row", "prompt", "expected", "untuned", "tuned", "exact"])
    for row in rows:
        texts = (row.prompt, row.expected, row.untuned, row.tuned)
        yield writer.writerow([row.row, *map(_harmless, texts), row.is_exact])


def _harmless(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text

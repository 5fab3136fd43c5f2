"""The log of a run: what is new in it, all of it by pages, and as a text file."""

from __future__ import annotations

import uuid

from django.core.paginator import Paginator
from django.http import HttpResponse, StreamingHttpResponse
from django.shortcuts import render

from experiments import log_lines
from experiments.views.runs import STOP_POLLING, number_of, run_of
from portal.access import TeamRequest, team_view
from portal.impersonation import refuse_while_impersonating
from portal.rls import team_scope


@team_view()
def log(request: TeamRequest, pk: uuid.UUID) -> HttpResponse:
    """Answer log lines after the first `?after=` ones: 204 for none yet, 286 when there will be no more."""
    found = run_of(request, pk)
    lines = log_lines.lines_after(found, number_of(request.GET.get("after")))
    if not lines:
        return HttpResponse(status=STOP_POLLING if found.is_terminal else 204)
    return render(request, "components/_log_lines.html", {"lines": lines})


@team_view()
def whole_log(request: TeamRequest, pk: uuid.UUID) -> HttpResponse:
    """Show the log from its first line on, a page at a time."""
    found = run_of(request, pk)
    page = Paginator(found.events.order_by("id"), log_lines.SHOWN_LINES).get_page(request.GET.get("page"))
    context = {"run": found, "page": page, "lines": log_lines.lines_of(page)}
    return render(request, "experiments/log.html", context)


@team_view(streams=True)
@refuse_while_impersonating
def log_text(request: TeamRequest, pk: uuid.UUID) -> StreamingHttpResponse:
    """Download the whole log as text, a line for each message."""
    with team_scope(request.team.pk):
        run = run_of(request, pk)
    response = StreamingHttpResponse(log_lines.log_text(run), content_type="text/plain; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="run-{pk}.log"'
    return response

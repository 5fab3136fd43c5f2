"""What a team uses, and how it stands with its limits."""

from __future__ import annotations

from django.http import HttpResponse, HttpResponseBase
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from portal import quotas, usage, usage_report
from portal.access import TeamRequest, team_view
from portal.csv_export import csv_response
from portal.impersonation import refuse_while_impersonating
from portal.quotas import Standing
from portal.usage_report import Month


@team_view()
@require_safe
def index(request: TeamRequest) -> HttpResponse:
    """Show the limits with how much of each is used, and the month by day, token and model."""
    month = Month.of(request.GET.get("month", ""))
    context = {
        "report": usage_report.team_report(request.team, month),
        "limits": [limit_line(standing) for standing in usage.standings(request.team)],
        "month": month,
    }
    return render(request, "portal/usage.html", context)


@team_view()
@require_safe
@refuse_while_impersonating
def export(request: TeamRequest) -> HttpResponseBase:
    """Download the month by day, as CSV."""
    month = Month.of(request.GET.get("month", ""))
    names = ["requests", "errors", "prompt_tokens", "completion_tokens", "gpu_seconds"]
    days = usage_report.team_report(request.team, month).days
    rows = [[day.label, *(getattr(day, name) for name in names)] for day in days]
    return csv_response(f"usage-{request.team.slug}-{month}.csv", ["day", *names], rows)


def limit_line(standing: Standing) -> dict[str, object]:
    """Return one limit as a page shows it: its name and how much of it is used."""
    used = quotas.written(standing.kind, standing.used)
    if standing.limit is None:
        detail = _("%(used)s used, no limit") % {"used": used}
    else:
        limit = quotas.written(standing.kind, standing.limit)
        detail = _("%(used)s of %(limit)s") % {"used": used, "limit": limit}
    return {
        "label": standing.kind.label,
        "detail": detail,
        "share": min(standing.share, 1.0) if standing.share is not None else None,
    }

"""The team's audit trail, for its admins."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from portal import audit, audit_trail
from portal.access import TeamRequest, team_view
from portal.actors import Actor
from portal.audit_trail import COLUMNS, FilterForm
from portal.csv_export import csv_response
from portal.errors import InvalidInput
from portal.impersonation import refuse_while_impersonating
from portal.models import AuditEvent, Role, Team


@team_view(role=Role.ADMIN)
@require_safe
def index(request: TeamRequest) -> HttpResponse:
    """Show what was done in the team, read and refused."""
    return trail_page(request, FilterForm(request.GET), _of_team(request.team), "portal/audit.html", with_teams=False)


@team_view(role=Role.ADMIN)
@require_safe
@refuse_while_impersonating
def export(request: TeamRequest) -> HttpResponseBase:
    """Download the events that the page's filters leave."""
    return trail_download(request, FilterForm(request.GET), _of_team(request.team), request.team)


def _of_team(team: Team) -> QuerySet[AuditEvent]:
    return AuditEvent.objects.filter(team_id=team.pk)


def trail_page(
    request: HttpRequest, form: FilterForm, events: QuerySet[AuditEvent], template: str, *, with_teams: bool
) -> HttpResponse:
    """Answer one page of a trail; a filter that does not fit shows nothing but says why."""
    context: dict[str, Any] = {"form": form, "rows": [], "older": "", "is_filtered": False}
    if form.is_valid():
        context["is_filtered"] = any(form.cleaned_data.values())
        found = audit_trail.matching(events, form.cleaned_data)
        page = audit_trail.page_of(found, request.GET.get("before", ""))
        context |= {"rows": audit_trail.shown(page.events, with_teams=with_teams), "older": page.older}
    return render(request, template, context, status=400 if form.errors else 200)


def trail_download(
    request: HttpRequest, form: FilterForm, events: QuerySet[AuditEvent], team: Team | None
) -> HttpResponseBase:
    """Answer a trail as CSV, streamed; the export itself becomes an event of it."""
    if not form.is_valid():
        raise InvalidInput(_("The filters do not fit. Go back and correct them."))
    found = audit_trail.matching(events, form.cleaned_data)
    audit.read(team, Actor.of(request), "audit.exported", team)
    name = f"audit-{team.slug}.csv" if team else "audit.csv"
    return csv_response(name, COLUMNS, audit_trail.rows_for_export(found))

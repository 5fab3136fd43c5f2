"""Limits of all teams and of one, and what all teams use."""

from __future__ import annotations

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_safe

from portal import limits, usage, usage_report
from portal.access import platform_admin_view
from portal.actors import Actor
from portal.csv_export import csv_response
from portal.limit_forms import DefaultLimitsForm, TeamLimitsForm
from portal.models import Team
from portal.rls import team_scope
from portal.usage_report import Month
from portal.views.usage import limit_line

_PER_PAGE = 50


@platform_admin_view
@require_http_methods(["GET", "HEAD", "POST"])
def defaults(request: HttpRequest) -> HttpResponse:
    """Show and change the limits of all teams that have none of their own."""
    form = DefaultLimitsForm(request.POST or None, present=limits.default_limits())
    if form.is_valid():
        for kind, value in form.changes():
            limits.set_default(kind=kind, value=value, actor=Actor.of(request))
        messages.success(request, _("The limits hold from now on."))
        return redirect("platform:limits")
    return render(request, "platform/limits.html", {"form": form}, status=400 if form.errors else 200)


@platform_admin_view
@require_http_methods(["GET", "HEAD", "POST"])
def team(request: HttpRequest, slug: str) -> HttpResponse:
    """Show and change one team's own limits, beside what it uses."""
    shown = get_object_or_404(Team, slug=slug)
    own = limits.own_limits(shown)
    form = TeamLimitsForm(request.POST or None, present=own, defaults=limits.default_limits())
    if form.is_valid():
        actor = Actor.of(request)
        for kind, is_own, value in form.changes():
            if is_own:
                limits.set_team_limit(team=shown, kind=kind, value=value, actor=actor)
            else:
                limits.clear_team_limit(team=shown, kind=kind, actor=actor)
        messages.success(request, _("The limits hold from now on."))
        return redirect("platform:team_limits", shown.slug)
    with team_scope(shown.pk):
        lines = [limit_line(standing) for standing in usage.standings(shown)]
    context = {"form": form, "shown": shown, "limits": lines}
    return render(request, "platform/team_limits.html", context, status=400 if form.errors else 200)


@platform_admin_view
@require_safe
def usage_of_all(request: HttpRequest) -> HttpResponse:
    """Show what each team used in a month, who asked most first."""
    month = Month.of(request.GET.get("month", ""))
    lines = usage_report.platform_report(month)
    lines.sort(key=lambda line: (-line.requests, -line.gpu_seconds, line.label))
    page = Paginator(lines, _PER_PAGE).get_page(request.GET.get("page"))
    return render(request, "platform/usage.html", {"month": month, "page": page})


@platform_admin_view
@require_safe
def usage_export(request: HttpRequest) -> HttpResponseBase:
    """Download what each team used in a month, as CSV."""
    month = Month.of(request.GET.get("month", ""))
    names = ["requests", "errors", "prompt_tokens", "completion_tokens", "gpu_seconds", "storage_bytes"]
    lines = usage_report.platform_report(month)
    rows = [[line.label, line.slug, *(getattr(line, name) for name in names)] for line in lines]
    return csv_response(f"usage-{month}.csv", ["team", "address", *names], rows)

"""Pages of the dataset doctor: the report of a version, its progress, and starting it again."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST, require_safe

from datasets_app.doctor import sentences
from datasets_app.doctor_reports import display, lifecycle, services
from datasets_app.models import DatasetVersion, DoctorReport
from portal import audit
from portal.access import TeamRequest, team_view
from portal.actors import Actor
from portal.errors import PortalError
from portal.models import BaseModel, Role

Status = DoctorReport.Status
ROWS_PER_PAGE = 20


@team_view()
@require_safe
def report(request: TeamRequest, pk: UUID) -> HttpResponse:
    """Show the newest report of a version, or how far it is, or why there is none."""
    version = _version(request, pk)
    raw = "raw" in request.GET and request.role.includes(Role.EDITOR)
    return render(request, "datasets/doctor/report.html", _context(request, version, raw=raw))


def _version(request: TeamRequest, pk: UUID) -> DatasetVersion:
    return get_object_or_404(request.team.datasetversions.select_related("dataset", "team", "parent"), pk=pk)


def _context(request: TeamRequest, version: DatasetVersion, *, raw: bool) -> dict[str, Any]:
    found = lifecycle.newest_report(version)
    if found is not None:
        audit.read(request.team, Actor.of(request), "doctor.read", version, raw=raw)
    latest = version.doctor_reports.defer("report").select_related("base_model").first()
    return {
        "version": version,
        "latest": latest,
        "stage": display.stage_in_words(latest, version.total_rows),
        "failure": display.failure_in_words(latest) if latest and latest.status == Status.FAILED else "",
        "found": found,
        "shown": display.shown_report(version, found, raw=raw) if found else None,
        "raw": raw,
        "base_models": BaseModel.objects.filter(is_allowed=True).order_by("parameters"),
        "default_options": services.default_options(),
    }


@team_view()
@require_safe
def progress(request: TeamRequest, pk: UUID) -> HttpResponse:
    """Answer the card with the progress of an examination; when it has ended, the card fetches the report."""
    version = _version(request, pk)
    latest = version.doctor_reports.defer("report").first()
    status = 200 if latest is not None and latest.is_open else 286
    context = {"version": version, "latest": latest, "stage": display.stage_in_words(latest, version.total_rows)}
    return render(request, "datasets/doctor/_progress.html", context, status=status)


@team_view(role=Role.EDITOR)
@require_POST
def start(request: TeamRequest, pk: UUID) -> HttpResponse:
    """Examine a version again, maybe with another base model or other limits."""
    version = _version(request, pk)
    try:
        services.start_report(
            version=version,
            actor=Actor.of(request),
            base_model=request.POST.get("base_model", ""),
            options=_options(request),
        )
    except PortalError as error:
        messages.error(request, error.message)
    return redirect("datasets:doctor", request.team.slug, pk)


def _options(request: TeamRequest) -> dict[str, object]:
    typed = {name: request.POST.get(name, "").strip() for name in ("max_length", "rare_below")}
    # What is no number goes on as it is: the service says what is wrong with it.
    return {name: int(text) if text.isdecimal() and len(text) < 10 else text for name, text in typed.items() if text}


@team_view(role=Role.EDITOR)
@require_POST
def cancel(request: TeamRequest, pk: UUID) -> HttpResponse:
    """Stop an examination that waits or runs."""
    version = _version(request, pk)
    latest = version.doctor_reports.filter(status__in=DoctorReport.OPEN).first()
    try:
        if latest is not None:
            services.cancel_report(report=latest, actor=Actor.of(request))
    except PortalError as error:
        messages.error(request, error.message)
    return redirect("datasets:doctor", request.team.slug, pk)


@team_view()
@require_safe
def finding(request: TeamRequest, pk: UUID, code: str) -> HttpResponse:
    """List all rows of one finding of the newest report."""
    version = _version(request, pk)
    found = lifecycle.newest_report(version)
    stored = display.stored_report(found) if found else None
    one = stored.finding(code) if stored else None
    if found is None or one is None or not one.examples:
        raise Http404
    raw = "raw" in request.GET and request.role.includes(Role.EDITOR)
    page = Paginator(display.FoundRows(version, found, one, raw=raw), ROWS_PER_PAGE).get_page(request.GET.get("page"))
    audit.read(request.team, Actor.of(request), "doctor.read", version, finding=code, raw=raw)
    context = {"version": version, "title": sentences.title(one, _), "code": code, "page": page, "raw": raw}
    return render(request, "datasets/doctor/finding.html", context)


@team_view(role=Role.EDITOR)
@require_POST
def fix(request: TeamRequest, pk: UUID) -> HttpResponse:
    """Make a new version with the ticked fixes, all of them at once."""
    version = _version(request, pk)
    found = lifecycle.newest_report(version)
    if found is None or str(found.pk) != request.POST.get("report"):
        messages.error(request, _("There is a newer report by now. Look at it and choose again."))
        return redirect("datasets:doctor", request.team.slug, pk)
    try:
        made = services.apply_fixes(
            report=found, actor=Actor.of(request), chosen=_chosen(request), verdicts=_verdicts(request)
        )
    except PortalError as error:
        messages.error(request, error.message)
        return redirect("datasets:doctor", request.team.slug, pk)
    if made is None:
        messages.success(request, _("The decision is noted."))
        return redirect("datasets:doctor", request.team.slug, pk)
    messages.success(
        request, _("Version %(number)d is being made. The doctor looks at it next.") % {"number": made.number}
    )
    return redirect("datasets:version", request.team.slug, made.pk)


def _chosen(request: TeamRequest) -> dict[str, str]:
    return {
        name.removeprefix("fix-"): str(value)
        for name, value in request.POST.items()
        if name.startswith("fix-") and value
    }


def _verdicts(request: TeamRequest) -> dict[int, str]:
    return {
        int(name.removeprefix("row-")): str(value)
        for name, value in request.POST.items()
        if name.startswith("row-") and name[4:].isdecimal() and len(name) < 24 and value != "keep"
    }

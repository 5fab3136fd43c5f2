"""Pages of the dataset doctor: the report of a version, its progress, and starting it again."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST, require_safe

from datasets_app.doctor_reports import display, lifecycle, services
from datasets_app.models import DatasetVersion, DoctorReport
from portal.access import TeamRequest, team_view
from portal.actors import Actor
from portal.errors import PortalError
from portal.models import BaseModel, Role

Status = DoctorReport.Status


@team_view()
@require_safe
def report(request: TeamRequest, pk: UUID) -> HttpResponse:
    """Show the newest report of a version, or how far it is, or why there is none."""
    version = _version(request, pk)
    return render(request, "datasets/doctor/report.html", _context(version))


def _version(request: TeamRequest, pk: UUID) -> DatasetVersion:
    return get_object_or_404(request.team.datasetversions.select_related("dataset", "team"), pk=pk)


def _context(version: DatasetVersion) -> dict[str, Any]:
    found = lifecycle.newest_report(version)
    latest = version.doctor_reports.defer("report").select_related("base_model").first()
    return {
        "version": version,
        "latest": latest,
        "failure": display.failure_in_words(latest) if latest and latest.status == Status.FAILED else "",
        "found": found,
        "shown": display.shown_report(version, found) if found else None,
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
    return render(request, "datasets/doctor/_progress.html", {"version": version, "latest": latest}, status=status)


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

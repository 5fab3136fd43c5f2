"""Pages of one version in whatever state it is: to be mapped, importing, failed or ready."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.http import HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from datasets_app import deletion, dependants, downloads, reports, sources
from datasets_app.doctor_reports.display import summary as doctor_summary
from datasets_app.models import DatasetVersion
from datasets_app.split_display import split_counts
from datasets_app.views.deleted import in_use
from datasets_app.views.remote import show_fetching
from datasets_app.views.rows import rows_context
from portal import audit
from portal.access import TeamRequest, team_view
from portal.actors import Actor
from portal.impersonation import refuse_while_impersonating
from portal.models import Role

# Values of a closed field that are drawn as bars; the rest is counted.
BARS_PER_FIELD = 12
FAULTS_SHOWN = 200
Status = DatasetVersion.Status


@team_view()
def version(request: TeamRequest, pk: UUID) -> HttpResponse:
    """Show a version; a draft leads those who may to its mapping."""
    found = get_object_or_404(
        request.team.datasetversions.select_related("dataset", "team", "created_by", "parent"), pk=pk
    )
    if found.status == Status.DRAFT and request.role.includes(Role.EDITOR):
        return redirect("datasets:mapping", request.team.slug, pk)
    return show_version(request, found)


def show_version(request: TeamRequest, found: DatasetVersion) -> HttpResponse:
    """Answer the page of a version's state."""
    if found.status == Status.READY:
        audit.read(request.team, Actor.of(request), "dataset.rows_read", found)
        return render(request, "datasets/version.html", _ready_context(request, found))
    if found.status == Status.FETCHING:
        return show_fetching(request, found)
    if found.status == Status.FAILED:
        return render(request, "datasets/failed.html", failure_context(found))
    return render(request, "datasets/importing.html", progress_context(found))


def _ready_context(request: TeamRequest, found: DatasetVersion) -> dict[str, Any]:
    return {
        "version": found,
        **rows_context(request, found),
        "fields": [_shown_field(field) for field in found.report.get("fields", [])],
        "doctor": doctor_summary(found),
        "fault_count": found.report.get("fault_count", 0),
        "faults": [reports.fault_line(fault) for fault in found.report.get("faults", [])[:FAULTS_SHOWN]],
        "sources": sources.in_order(found),
        "split_counts": split_counts(found.report),
        "used_by": found.runs.count(),
        "may_edit": request.role.includes(Role.EDITOR),
    }


def _shown_field(field: dict[str, Any]) -> dict[str, Any]:
    """Return a field with its most frequent values as bars."""
    counted = list(zip(field["values"], field["counts"], strict=True))
    return {
        **field,
        "bars": [{"label": label, "value": count} for label, count in counted[:BARS_PER_FIELD]],
        "more": max(len(counted) - BARS_PER_FIELD, 0),
    }


@team_view()
@require_safe
@refuse_while_impersonating
def download(request: TeamRequest, pk: UUID, split: str, kind: str) -> HttpResponseBase:
    """Send the rows of a split as JSON lines, CSV or Parquet."""
    found = get_object_or_404(request.team.datasetversions.select_related("dataset", "team"), pk=pk)
    answer = downloads.response(found, split, kind)
    audit.read(request.team, Actor.of(request), "dataset.downloaded", found, split=split, kind=kind)
    return answer


@team_view()
@require_safe
def progress(request: TeamRequest, pk: UUID) -> HttpResponse:
    """Answer the card with the progress of an import; when it has ended, the card fetches the page of the outcome."""
    version = get_object_or_404(request.team.datasetversions.select_related("team"), pk=pk)
    status = 200 if version.status == Status.IMPORTING else 286
    return render(request, "datasets/_progress.html", progress_context(version), status=status)


def progress_context(version: DatasetVersion) -> dict[str, Any]:
    """Return how far an import is. Every byte is read once; then the rows are divided."""
    if version.is_derived:
        rows = version.parent.total_rows if version.parent else 0
        waiting = version.claim is None
        done = None if waiting else min(version.rows_done, rows)
        return {"version": version, "is_waiting": waiting, "is_writing": True, "bytes_total": rows, "bytes_done": done}
    text_bytes = sum(source.text_bytes for source in version.sources.all())
    return {
        "version": version,
        "is_waiting": version.claim is None,
        "is_writing": version.bytes_done >= text_bytes > 0,
        "bytes_total": text_bytes,
        "bytes_done": min(version.bytes_done, text_bytes) if version.claim else None,
    }


def failure_context(version: DatasetVersion) -> dict[str, Any]:
    """Return why an import failed, with its faulty rows."""
    report = version.report
    return {
        "version": version,
        "error": reports.error_in_words(report),
        "faults": [reports.fault_line(fault) for fault in report.get("faults", [])[:FAULTS_SHOWN]],
        "fault_count": report.get("fault_count", 0),
        "several_files": version.sources.count() > 1,
        "can_skip": report.get("error", {}).get("code") == "faulty_rows",
    }


@team_view(role=Role.EDITOR)
def discard(request: TeamRequest, pk: UUID) -> HttpResponse:
    """Ask, then delete a version with its files; a dataset without versions goes too."""
    version = get_object_or_404(request.team.datasetversions.select_related("dataset", "team"), pk=pk)
    if users := dependants.holding(request.team, [version.pk]):
        return in_use(request, str(version), users, reverse("datasets:version", args=[request.team.slug, pk]))
    if request.method != "POST":
        return render(request, "components/confirm.html", _discard_question(request, version))
    dataset_id = version.dataset_id
    deletion.discard_version(version=version, actor=Actor.of(request))
    messages.success(request, _("The version is deleted."))
    if request.team.datasets.filter(pk=dataset_id).exists():
        return redirect("datasets:detail", request.team.slug, dataset_id)
    return redirect("datasets:list", request.team.slug)


def deletion_words(version: DatasetVersion) -> str:
    """Return what happens to a version that is deleted."""
    if version.status == Status.READY:
        return _("It disappears from the lists. For 30 days you can restore it from the list of deleted versions.")
    return _("Its files are deleted for good. Other versions stay.")


def _discard_question(request: TeamRequest, version: DatasetVersion) -> dict[str, object]:
    return {
        "title": _("Delete %(version)s?") % {"version": version},
        "message": deletion_words(version),
        "action": _("Delete version"),
        "danger": True,
        "cancel_url": reverse("datasets:version", args=[request.team.slug, version.pk]),
    }

"""Pages of datasets and their versions."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import FileResponse, Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.text import slugify
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from datasets_app import reports, services, sources
from datasets_app.models import DatasetVersion, Split
from datasets_app.preview import as_seen
from datasets_app.rows import CanonicalRow
from datasets_app.stored_rows import StoredRows, pretty_answer
from datasets_app.views.imports import failure_context, progress_context
from portal.access import TeamRequest, team_view
from portal.actors import Actor
from portal.errors import IllegalTransition
from portal.models import Role

DATASETS_PER_PAGE = 20
ROWS_PER_PAGE = 20
SEEN_PER_PAGE = 5
# Values of a closed field that are drawn as bars; the rest is counted.
BARS_PER_FIELD = 12
Status = DatasetVersion.Status


@team_view()
def index(request: TeamRequest) -> HttpResponse:
    """List datasets, the newest first, with a search by name."""
    query = request.GET.get("q", "").strip()[:120].replace("\x00", "")
    found = request.team.datasets.order_by("-created_at", "pk").prefetch_related("versions")
    if query:
        found = found.filter(name__icontains=query)
    page = Paginator(found, DATASETS_PER_PAGE).get_page(request.GET.get("page"))
    listed = [(dataset, *_newest_and_ready(list(dataset.versions.all()))) for dataset in page]
    return render(request, "datasets/list.html", {"page": page, "listed": listed, "query": query})


def _newest_and_ready(versions: list[DatasetVersion]) -> tuple[DatasetVersion | None, DatasetVersion | None]:
    versions.sort(key=lambda one: -one.number)
    return next(iter(versions), None), next((one for one in versions if one.status == Status.READY), None)


@team_view()
def detail(request: TeamRequest, pk: UUID) -> HttpResponse:
    """Show a dataset with its versions."""
    dataset = get_object_or_404(request.team.datasets.select_related("created_by"), pk=pk)
    versions = dataset.versions.select_related("created_by").order_by("-number")
    ready = next((version for version in versions if version.status == Status.READY), None)
    return render(request, "datasets/detail.html", {"dataset": dataset, "versions": versions, "ready": ready})


@team_view(role=Role.EDITOR)
def delete(request: TeamRequest, pk: UUID) -> HttpResponse:
    """Ask, then delete a dataset with all its versions."""
    dataset = get_object_or_404(request.team.datasets, pk=pk)
    if request.method != "POST":
        question = {
            "title": _("Delete “%(name)s”?") % {"name": dataset.name},
            "message": _("All its versions, files and rows are deleted for good."),
            "action": _("Delete dataset"),
            "danger": True,
            "cancel_url": reverse("datasets:detail", args=[request.team.slug, pk]),
        }
        return render(request, "components/confirm.html", question)
    try:
        services.delete_dataset(dataset=dataset, actor=Actor.of(request))
    except IllegalTransition as error:
        messages.error(request, error.message)
        return redirect("datasets:detail", request.team.slug, pk)
    messages.success(request, _("The dataset “%(name)s” is deleted.") % {"name": dataset.name})
    return redirect("datasets:list", request.team.slug)


@team_view()
def version(request: TeamRequest, pk: UUID) -> HttpResponse:
    """Show a version in whatever state it is: to be mapped, importing, failed or ready."""
    found = get_object_or_404(request.team.datasetversions.select_related("dataset", "team", "created_by"), pk=pk)
    if found.status == Status.DRAFT and request.role.includes(Role.EDITOR):
        return redirect("datasets:mapping", request.team.slug, pk)
    if found.status == Status.READY:
        return render(request, "datasets/version.html", _ready_context(request, found))
    if found.status == Status.FAILED:
        return render(request, "datasets/failed.html", failure_context(found))
    return render(request, "datasets/importing.html", progress_context(found))


def _ready_context(request: TeamRequest, found: DatasetVersion) -> dict[str, Any]:
    splits = [split for split in Split if found.row_count(split)]
    asked = request.GET.get("split")
    split = next((one for one in splits if one.value == asked), splits[0])
    is_seen = request.GET.get("view") == "model"
    rows = Paginator(StoredRows(found, split), SEEN_PER_PAGE if is_seen else ROWS_PER_PAGE)
    page = rows.get_page(request.GET.get("page"))
    seen, model_name = as_seen(page) if is_seen else ((), "")
    return {
        "version": found,
        "splits": [(one, found.row_count(one)) for one in splits],
        "split": split,
        "page": page,
        "is_seen": is_seen,
        "seen": seen,
        "model_name": model_name,
        "rows": [] if is_seen else [_shown(row, found.mapping.get("system_prompt", "")) for row in page],
        "fields": [_shown_field(field) for field in found.report.get("fields", [])],
        "warnings": reports.warnings_in_words(found.report),
        "fault_count": found.report.get("fault_count", 0),
        "faults": [reports.fault_line(fault) for fault in found.report.get("faults", [])[:50]],
        "sources": sources.in_order(found),
        "used_by": found.runs.count(),
    }


def _shown(row: CanonicalRow, same_for_all: str) -> dict[str, Any]:
    """Return a row for the table; the system prompt that all rows share is said once, beside the table."""
    return {
        "line": row.row,
        "earlier": [message for message in row.messages[:-2] if message["content"] != same_for_all],
        "prompt": row.prompt,
        "answer": row.answer,
        "fields": pretty_answer(row.answer),
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
def download(request: TeamRequest, pk: UUID, split: str) -> FileResponse:
    """Send the canonical rows of a split as JSON Lines."""
    found = get_object_or_404(request.team.datasetversions.select_related("dataset", "team"), pk=pk)
    if split not in Split.values or found.status != Status.READY or not found.row_count(split):
        raise Http404
    name = f"{slugify(found.dataset.name) or 'dataset'}-v{found.number}-{split}.jsonl"
    return FileResponse(
        found.rows_path(split).open("rb"), as_attachment=True, filename=name, content_type="application/jsonl"
    )

"""What was deleted and can still be brought back; and what cannot be deleted because something stands on it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from datasets_app import deletion
from datasets_app.dependants import Dependant
from datasets_app.models import Dataset, DatasetVersion
from portal.access import TeamRequest, team_view
from portal.actors import Actor
from portal.errors import PortalError
from portal.models import Role, Team

PER_PAGE = 20
USERS_SHOWN = 50


def _datasets(team: Team) -> Any:
    return team.datasets(manager="with_deleted").exclude(deleted_at=None)


def _versions(team: Team) -> Any:
    """Return deleted versions of datasets that live."""
    return team.datasetversions(manager="with_deleted").exclude(deleted_at=None).filter(dataset__deleted_at=None)


def deleted_count(team: Team) -> int:
    """Return how many datasets and versions can be brought back."""
    return int(_datasets(team).count() + _versions(team).count())


@team_view()
@require_safe
def index(request: TeamRequest) -> HttpResponse:
    """List deleted datasets and versions, with the time that is left to them."""
    datasets = list(_datasets(request.team).select_related("deleted_by"))
    versions = list(_versions(request.team).select_related("dataset", "deleted_by").defer("report", "changes"))
    sizes = _sizes(request.team)
    rows = [_row(one, sizes.get(one.pk, 0)) for one in datasets]
    rows += [_row(one, one.size_bytes) for one in versions]
    rows.sort(key=lambda row: row["deleted_at"], reverse=True)
    page = Paginator(rows, PER_PAGE).get_page(request.GET.get("page"))
    total = sum(row["size_bytes"] for row in rows)
    return render(request, "datasets/deleted.html", {"page": page, "total_bytes": total})


def _sizes(team: Team) -> dict[UUID, int]:
    """Return the bytes of the versions of each deleted dataset."""
    found: dict[UUID, int] = {}
    versions = team.datasetversions(manager="with_deleted").exclude(dataset__deleted_at=None)
    for dataset_id, size_bytes in versions.values_list("dataset_id", "size_bytes"):
        found[dataset_id] = found.get(dataset_id, 0) + size_bytes
    return found


def _row(row: Dataset | DatasetVersion, size_bytes: int) -> dict[str, Any]:
    is_dataset = isinstance(row, Dataset)
    return {
        "row": row,
        "name": str(row),
        "is_dataset": is_dataset,
        "restore": "datasets:restore" if is_dataset else "datasets:restore_version",
        "purge": "datasets:purge" if is_dataset else "datasets:purge_version",
        "deleted_at": row.deleted_at,
        "gone_at": deletion.gone_at(row.deleted_at) if row.deleted_at else None,
        "size_bytes": size_bytes,
    }


@team_view(role=Role.EDITOR)
def restore_dataset(request: TeamRequest, pk: UUID) -> HttpResponse:
    """Bring a dataset back; if its name is taken by now, ask for another one."""
    found = get_object_or_404(_datasets(request.team), pk=pk)
    error = ""
    name = request.POST.get("name", found.name)
    if request.method == "POST":
        try:
            restored = deletion.restore_dataset(dataset=found, actor=Actor.of(request), name=name)
        except PortalError as refused:
            error = refused.message
        else:
            messages.success(request, _("The dataset “%(name)s” is back.") % {"name": restored.name})
            return redirect("datasets:detail", request.team.slug, pk)
    context = {"dataset": found, "name": name, "error": error}
    return render(request, "datasets/restore.html", context, status=400 if error else 200)


@team_view(role=Role.EDITOR)
def restore_version(request: TeamRequest, pk: UUID) -> HttpResponse:
    """Bring a version back."""
    found = get_object_or_404(
        request.team.datasetversions(manager="with_deleted").exclude(deleted_at=None).select_related("dataset"), pk=pk
    )
    if request.method != "POST":
        question = {
            "title": _("Restore %(version)s?") % {"version": found},
            "message": _("It is listed again among the versions of its dataset."),
            "action": _("Restore version"),
            "cancel_url": reverse("datasets:deleted", args=[request.team.slug]),
        }
        return render(request, "components/confirm.html", question)
    try:
        deletion.restore_version(version=found, actor=Actor.of(request))
    except PortalError as error:
        messages.error(request, error.message)
        return redirect("datasets:deleted", request.team.slug)
    messages.success(request, _("The version is back."))
    return redirect("datasets:version", request.team.slug, pk)


@team_view(role=Role.ADMIN)
def purge_dataset(request: TeamRequest, pk: UUID) -> HttpResponse:
    """Delete a dataset for good, once its name was typed."""
    return _purge(request, get_object_or_404(_datasets(request.team), pk=pk))


@team_view(role=Role.ADMIN)
def purge_version(request: TeamRequest, pk: UUID) -> HttpResponse:
    """Delete a version for good, once its name was typed."""
    versions = request.team.datasetversions(manager="with_deleted").exclude(deleted_at=None)
    return _purge(request, get_object_or_404(versions.select_related("dataset"), pk=pk))


def _purge(request: TeamRequest, row: Dataset | DatasetVersion) -> HttpResponse:
    error = ""
    if request.method == "POST":
        try:
            deletion.purge(row=row, actor=Actor.of(request), typed=request.POST.get("typed", ""))
        except PortalError as refused:
            error = refused.message
        else:
            messages.success(request, _("It is gone for good."))
            return redirect("datasets:deleted", request.team.slug)
    to_type = row.name if isinstance(row, Dataset) else row.short_name
    context = {"row": row, "to_type": to_type, "typed": request.POST.get("typed", ""), "error": error}
    return render(request, "datasets/purge.html", context, status=400 if error else 200)


def in_use(request: TeamRequest, name: str, users: list[Dependant], back_url: str) -> HttpResponse:
    """Say what stands on a dataset or version that was to be deleted, with links."""
    context = {
        "name": name,
        "users": users[:USERS_SHOWN],
        "more": max(len(users) - USERS_SHOWN, 0),
        "back_url": back_url,
    }
    return render(request, "datasets/in_use.html", context, status=409)

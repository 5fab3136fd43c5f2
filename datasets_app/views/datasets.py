"""Pages of datasets and their versions."""

from __future__ import annotations

from uuid import UUID

from django.contrib import messages
from django.core.paginator import Paginator
from django.db.models import Prefetch
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _

from datasets_app import deletion, dependants, lineage
from datasets_app.doctor_reports.display import summary as doctor_summary
from datasets_app.models import DatasetVersion
from datasets_app.views.deleted import deleted_count, in_use
from portal import search
from portal.access import TeamRequest, team_view
from portal.actors import Actor
from portal.models import Role

DATASETS_PER_PAGE = 20
Status = DatasetVersion.Status


@team_view()
def index(request: TeamRequest) -> HttpResponse:
    """List datasets, the newest first, with a search by name."""
    query = search.typed(request)
    # A report may name a thousand faulty rows, and changes hold as many rows, which no list shows.
    versions = Prefetch("versions", request.team.datasetversions.defer("report", "changes"))
    found = request.team.datasets.order_by("-created_at", "pk").prefetch_related(versions)
    if query:
        found = found.filter(name__icontains=query)
    page = Paginator(found, DATASETS_PER_PAGE).get_page(request.GET.get("page"))
    listed = [(dataset, *_newest_and_ready(list(dataset.versions.all()))) for dataset in page]
    context = {"page": page, "listed": listed, "query": query, "deleted_count": deleted_count(request.team)}
    return render(request, "datasets/list.html", context)


def _newest_and_ready(versions: list[DatasetVersion]) -> tuple[DatasetVersion | None, DatasetVersion | None]:
    versions.sort(key=lambda one: -one.number)
    return next(iter(versions), None), next((one for one in versions if one.status == Status.READY), None)


@team_view()
def detail(request: TeamRequest, pk: UUID) -> HttpResponse:
    """Show a dataset with its versions."""
    dataset = get_object_or_404(request.team.datasets.select_related("created_by"), pk=pk)
    versions = dataset.versions.select_related("created_by").defer("report", "changes").order_by("-number")
    ready = next((version for version in versions if version.status == Status.READY), None)
    context = {
        "dataset": dataset,
        "versions": versions,
        "ready": ready,
        "doctor": doctor_summary(ready) if ready else None,
        "lineage": lineage.picture(dataset),
    }
    return render(request, "datasets/detail.html", context)


@team_view(role=Role.EDITOR)
def delete(request: TeamRequest, pk: UUID) -> HttpResponse:
    """Ask, then delete a dataset with all its versions."""
    dataset = get_object_or_404(request.team.datasets, pk=pk)
    if users := dependants.holding(request.team, list(dataset.versions.values_list("pk", flat=True))):
        return in_use(request, dataset.name, users, reverse("datasets:detail", args=[request.team.slug, pk]))
    if request.method != "POST":
        question = {
            "title": _("Delete “%(name)s”?") % {"name": dataset.name},
            "message": _(
                "It disappears with all its versions. For 30 days you can restore it from the list of deleted datasets."
            ),
            "action": _("Delete dataset"),
            "danger": True,
            "cancel_url": reverse("datasets:detail", args=[request.team.slug, pk]),
        }
        return render(request, "components/confirm.html", question)
    deletion.delete_dataset(dataset=dataset, actor=Actor.of(request))
    messages.success(request, _("The dataset “%(name)s” is deleted.") % {"name": dataset.name})
    return redirect("datasets:list", request.team.slug)

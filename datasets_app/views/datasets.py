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

from datasets_app import services
from datasets_app.models import DatasetVersion
from portal import search
from portal.access import TeamRequest, team_view
from portal.actors import Actor
from portal.errors import IllegalTransition
from portal.models import Role

DATASETS_PER_PAGE = 20
Status = DatasetVersion.Status


@team_view()
def index(request: TeamRequest) -> HttpResponse:
    """List datasets, the newest first, with a search by name."""
    query = search.typed(request)
    # A report may name a thousand faulty rows, which no list shows.
    versions = Prefetch("versions", request.team.datasetversions.defer("report"))
    found = request.team.datasets.order_by("-created_at", "pk").prefetch_related(versions)
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
    versions = dataset.versions.select_related("created_by").defer("report").order_by("-number")
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

"""Pages of sources elsewhere: say where the files lie, watch them come, try again."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_POST, require_safe

from datasets_app.models import Dataset, DatasetVersion, RemoteFetch
from datasets_app.remote.forms import KIND_NAMES, SourceForm
from datasets_app.remote.services import fetch_again, start_fetch
from datasets_app.remote.spec import shown_address
from portal.access import TeamRequest, team_view
from portal.actors import Actor
from portal.errors import IllegalTransition, PortalError
from portal.models import Role

Status = DatasetVersion.Status


@team_view(role=Role.EDITOR)
def new_dataset(request: TeamRequest, kind: str) -> HttpResponse:
    """Fetch the files of a new dataset."""
    return _source(request, kind, dataset=None)


@team_view(role=Role.EDITOR)
def new_version(request: TeamRequest, pk: UUID, kind: str) -> HttpResponse:
    """Fetch the files of a new version of a dataset."""
    return _source(request, kind, dataset=get_object_or_404(request.team.datasets, pk=pk))


def _source(request: TeamRequest, kind: str, dataset: Dataset | None) -> HttpResponse:
    if kind not in KIND_NAMES:
        raise Http404
    form = SourceForm(request.POST or None, kind=kind, team=request.team, is_new=dataset is None)
    if request.method == "POST" and form.is_valid():
        try:
            version = start_fetch(
                team=request.team,
                actor=Actor.of(request),
                name=form.cleaned_data.get("name", ""),
                description=form.cleaned_data.get("description", ""),
                source=form.source(),
                dataset=dataset,
            )
            return redirect("datasets:version", request.team.slug, version.pk)
        except PortalError as error:
            form.add_refusal(error.param, error.message)
    context = {"form": form, "dataset": dataset, "kind": kind, "tabs": tabs(request, dataset, kind)}
    return render(request, "datasets/remote.html", context, status=400 if form.errors else 200)


def tabs(request: TeamRequest, dataset: Dataset | None, kind: str = "") -> list[dict[str, Any]]:
    """Return the ways in which files come here; `kind` is the one on show, "" stands for an upload."""
    team = request.team.slug
    place = [team, dataset.pk] if dataset else [team]
    own, other = ("new_version", "new_version_from") if dataset else ("import", "import_from")
    found = [{"kind": "", "label": "", "icon": "cloud-upload", "url": reverse(f"datasets:{own}", args=place)}]
    for name, (label, icon) in KIND_NAMES.items():
        url = reverse(f"datasets:{other}", args=[*place, name])
        found.append({"kind": name, "label": str(label), "icon": icon, "url": url})
    return [{**tab, "active": tab["kind"] == kind} for tab in found]


def show_fetching(request: TeamRequest, version: DatasetVersion) -> HttpResponse:
    """Answer the page of a version whose files are on their way."""
    return render(request, "datasets/fetching.html", _fetch_context(version))


@team_view()
@require_safe
def fetching(request: TeamRequest, pk: UUID) -> HttpResponse:
    """Answer the card with the progress of a fetch; at its end the card fetches the page of what comes next."""
    version = get_object_or_404(request.team.datasetversions.select_related("team"), pk=pk)
    context = _fetch_context(version)
    fetch = context["fetch"]
    goes_on = version.status == Status.FETCHING and fetch is not None and fetch.status != RemoteFetch.Status.FAILED
    return render(request, "datasets/_fetching.html", {**context, "goes_on": goes_on}, status=200 if goes_on else 286)


def _fetch_context(version: DatasetVersion) -> dict[str, Any]:
    fetch = version.team.remotefetchs.filter(version=version).first()
    return {
        "version": version,
        "fetch": fetch,
        "goes_on": fetch is not None and fetch.status != RemoteFetch.Status.FAILED,
        "address": shown_address(fetch.source) if fetch else "",
        "kind_name": KIND_NAMES[fetch.source["kind"]][0] if fetch else "",
    }


@team_view(role=Role.EDITOR)
@require_POST
def again(request: TeamRequest, pk: UUID) -> HttpResponse:
    """Fetch the files of a version once more after a failure."""
    version = get_object_or_404(request.team.datasetversions.select_related("team", "dataset"), pk=pk)
    try:
        fetch_again(version=version, actor=Actor.of(request))
    except IllegalTransition as error:
        messages.error(request, error.message)
    return redirect("datasets:version", request.team.slug, pk)

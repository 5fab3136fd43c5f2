"""Taking a run's model away: adapter, merged model, GGUF, model card, and a push to the hub."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.http import FileResponse, Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_http_methods

from deployments import exports
from deployments.forms import FileExportForm, PushForm
from deployments.model_card import card_of, file_stem
from deployments.models import ModelExport
from experiments.models import Run
from portal import archives, audit
from portal.access import TeamRequest, team_view
from portal.actors import Actor
from portal.errors import PortalError
from portal.impersonation import refuse_while_impersonating
from portal.models import Role

STOP_POLLING = 286


def _run(request: TeamRequest, pk: UUID) -> Run:
    runs = request.team.runs.select_related(
        "experiment", "base_model", "dataset_version__dataset", "adapter__team", "evaluation"
    )
    return get_object_or_404(runs, pk=pk, adapter__isnull=False)


@team_view()
@require_http_methods(["GET", "HEAD", "POST"])
def index(request: TeamRequest, pk: UUID) -> HttpResponse:
    """Offer all ways out and list the exports of a run; a POST of an editor starts one."""
    run = _run(request, pk)
    sent = request.POST if request.method == "POST" else None
    if sent is not None and not request.role.includes(Role.EDITOR):
        raise Http404
    is_push = sent is not None and "repository" in sent
    file_form = FileExportForm(None if is_push else sent)
    push_form = PushForm(sent if is_push else None, team=request.team, initial={"is_private": True})
    status = 200
    if sent is not None:
        form = push_form if is_push else file_form
        if form.is_valid() and _start(request, run, form):
            messages.success(request, _("The export is on its way. It goes on when you leave this page."))
            return redirect("deployments:exports", request.team.slug, run.pk)
        status = 400
    context = _listed(request, run) | {"file_form": file_form, "push_form": push_form}
    return render(request, "deployments/exports.html", context, status=status)


def _start(request: TeamRequest, run: Run, form: FileExportForm | PushForm) -> bool:
    given, actor = form.cleaned_data, Actor.of(request)
    try:
        if isinstance(form, PushForm):
            exports.start_push(
                adapter=run.adapter,
                actor=actor,
                repository=given["repository"],
                secret_name=given["secret"].name,
                is_private=given["is_private"],
                whole_model=given["whole_model"],
            )
        else:
            kind, _colon, weights = given["format"].partition(":")
            exports.start_file(adapter=run.adapter, actor=actor, kind=kind, weights=weights)
    except PortalError as error:
        form.add_error(error.param if error.param in form.fields else None, error.message)
        return False
    return True


@team_view()
@require_GET
def listed(request: TeamRequest, pk: UUID) -> HttpResponse:
    """Answer the list of exports as it is now; 286 ends the polling when none is on its way."""
    context = _listed(request, _run(request, pk))
    return render(request, "deployments/_exports.html", context, status=200 if context["is_busy"] else STOP_POLLING)


def _listed(request: TeamRequest, run: Run) -> dict[str, Any]:
    found = list(run.adapter.exports.select_related("created_by")[:50])
    return {"run": run, "exports": found, "is_busy": any(one.is_open for one in found)}


@team_view()
@require_GET
def card(request: TeamRequest, pk: UUID) -> HttpResponse:
    """Download the model card."""
    run = _run(request, pk)
    response = HttpResponse(card_of(run), content_type="text/markdown; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="{file_stem(run)}-model-card.md"'
    return response


@team_view()
@require_GET
@refuse_while_impersonating
def adapter(request: TeamRequest, pk: UUID) -> HttpResponse | FileResponse:
    """Download the adapter with its model card, as plain PEFT loads it."""
    run = _run(request, pk)
    if not run.adapter.folder.is_dir():
        raise Http404
    audit.read(request.team, Actor.of(request), "adapter.downloaded", run.adapter)
    return archives.folder_response(run.adapter.folder, f"{file_stem(run)}-adapter.zip", {"README.md": card_of(run)})


def _export(request: TeamRequest, pk: UUID) -> ModelExport:
    return get_object_or_404(request.team.modelexports.select_related("team", "adapter__run__experiment"), pk=pk)


@team_view()
@require_GET
@refuse_while_impersonating
def download(request: TeamRequest, pk: UUID) -> HttpResponse | FileResponse:
    """Download the file of an export."""
    export = _export(request, pk)
    path = export.folder / export.file_name
    if export.status != ModelExport.Status.READY or not export.file_name or not path.is_file():
        raise Http404
    audit.read(request.team, Actor.of(request), "export.downloaded", export, kind=export.kind)
    return FileResponse(path.open("rb"), as_attachment=True, filename=export.file_name)


@team_view(role=Role.EDITOR)
@require_http_methods(["GET", "HEAD", "POST"])
def delete(request: TeamRequest, pk: UUID) -> HttpResponse:
    """Ask, then delete an export and its file."""
    export = _export(request, pk)
    back = reverse("deployments:exports", args=[request.team.slug, export.adapter.run_id])
    if request.method == "POST":
        exports.delete_export(export=export, actor=Actor.of(request))
        messages.success(request, _("The export is deleted."))
        return redirect(back)
    context = {
        "title": _("Delete this export?"),
        "message": _("Its file is removed; what was pushed to a hub stays there. The run and its adapter are kept."),
        "action": _("Delete"),
        "danger": True,
        "cancel_url": back,
    }
    return render(request, "components/confirm.html", context)

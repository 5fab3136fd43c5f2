"""Weights that a run has kept: measuring them on validation rows, and taking them away."""

from __future__ import annotations

import uuid

from django.contrib import messages
from django.http import FileResponse, Http404, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from experiments import kept, measuring
from experiments.views.runs import run_of
from portal import archives, audit
from portal.access import TeamRequest, team_view
from portal.actors import Actor
from portal.errors import PortalError
from portal.impersonation import refuse_while_impersonating
from portal.models import Role


@team_view(role=Role.EDITOR)
@require_POST
def evaluate(request: TeamRequest, pk: uuid.UUID, step: int) -> HttpResponse:
    """Have the weights that were kept at a step answer the validation rows."""
    run = run_of(request, pk)
    try:
        measuring.evaluate_kept(run=run, step=step, actor=Actor.of(request))
    except PortalError as error:
        if error.status == 404:
            raise
        messages.error(request, error.message)
    else:
        messages.success(request, _("The evaluation of step %(step)d waits for a slot.") % {"step": step})
    return redirect(reverse("experiments:run", args=[request.team.slug, run.pk]) + "#kept")


@team_view()
@refuse_while_impersonating
def adapter_download(request: TeamRequest, pk: uuid.UUID) -> HttpResponse | FileResponse:
    """Download the adapter as a ZIP of its PEFT folder."""
    found = run_of(request, pk)
    adapter = getattr(found, "adapter", None)
    if adapter is None or not adapter.folder.is_dir():
        raise Http404
    audit.read(request.team, Actor.of(request), "adapter.downloaded", adapter)
    return archives.folder_response(adapter.folder, f"adapter-{found.pk}.zip")


@team_view()
@refuse_while_impersonating
def kept_download(request: TeamRequest, pk: uuid.UUID, step: int) -> HttpResponse | FileResponse:
    """Download the weights that were kept at a checkpoint as a ZIP of their PEFT folder."""
    found = run_of(request, pk)
    folder = kept.kept_folder(found, step)
    if folder is None:
        raise Http404
    audit.read(request.team, Actor.of(request), "adapter.downloaded", found)
    return archives.folder_response(folder, f"adapter-{found.pk}-step-{step}.zip")

"""Uploads in parts, for the import page: the tus protocol behind the session and its CSRF token."""

from __future__ import annotations

from functools import partial
from uuid import UUID

from django.http import HttpResponse
from django.urls import reverse
from django.views.decorators.http import require_http_methods

from datasets_app import tus
from portal.access import TeamRequest, team_view
from portal.actors import Actor
from portal.models import Role


@team_view(role=Role.EDITOR, streams=True)
@require_http_methods(["OPTIONS", "POST"])
def uploads(request: TeamRequest) -> HttpResponse:
    """Begin an upload."""
    if request.method == "OPTIONS":
        return tus.options()
    return tus.create(request, request.team, Actor.of(request), partial(_address, request.team.slug))


@team_view(role=Role.EDITOR, streams=True)
@require_http_methods(["HEAD", "PATCH", "DELETE"])
def upload(request: TeamRequest, pk: UUID) -> HttpResponse:
    """Continue or end an upload that the same person began."""
    answers = {"HEAD": tus.head, "PATCH": tus.patch, "DELETE": tus.delete}
    return answers[request.method or ""](request, request.team, Actor.of(request), pk)


def _address(team: str, pk: UUID) -> str:
    return reverse("datasets:upload", args=[team, pk])

"""Uploads in parts for programs: the tus protocol behind an API token."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.http import HttpResponse
from django.urls import reverse
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request

from datasets_app import tus
from portal.api.views import TeamAPIView
from portal.models import Scope


class Uploads(TeamAPIView):
    """Where an upload begins."""

    scopes = {"POST": Scope.DATASETS_WRITE}
    opens_scope = False

    @extend_schema(exclude=True)
    def post(self, request: Request) -> HttpResponse:
        """Begin an upload."""
        return tus.create(request._request, self.team, self.actor, _address)

    @extend_schema(exclude=True)
    def options(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        """Say what is spoken here."""
        return tus.options()


class Upload(TeamAPIView):
    """One upload of the caller."""

    scopes = {"GET": Scope.DATASETS_WRITE, "PATCH": Scope.DATASETS_WRITE, "DELETE": Scope.DATASETS_WRITE}
    opens_scope = False

    @extend_schema(exclude=True)
    def head(self, request: Request, pk: UUID) -> HttpResponse:
        """Say how far it is."""
        return tus.head(request._request, self.team, self.actor, pk)

    @extend_schema(exclude=True)
    def patch(self, request: Request, pk: UUID) -> HttpResponse:
        """Take the next part."""
        return tus.patch(request._request, self.team, self.actor, pk)

    @extend_schema(exclude=True)
    def delete(self, request: Request, pk: UUID) -> HttpResponse:
        """Throw it away."""
        return tus.delete(request._request, self.team, self.actor, pk)


def _address(pk: UUID) -> str:
    return reverse("datasets-api:upload", args=[pk])

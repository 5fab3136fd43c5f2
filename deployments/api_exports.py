"""The resource API of exports: models on their way out of the portal."""

from __future__ import annotations

import uuid
from typing import Any

from django.http import FileResponse
from django.shortcuts import get_object_or_404
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from deployments import exports
from deployments.models import ModelExport
from experiments.models import Adapter, Run
from portal import audit
from portal.api.pagination import PAGE_PARAMETERS, PAGE_SCHEMA, Pages, page_of
from portal.api.views import TeamAPIView
from portal.errors import InvalidInput, NotFound
from portal.models import Scope
from portal.views.errors import default_message

_SCOPES = {
    "GET": Scope.DEPLOYMENTS_READ.value,
    "POST": Scope.DEPLOYMENTS_WRITE.value,
    "DELETE": Scope.DEPLOYMENTS_WRITE.value,
}


class ModelExportSerializer(serializers.ModelSerializer[ModelExport]):
    """A model on its way out: a file to be downloaded until `expires_at`, or a repository on a hub."""

    weights = serializers.CharField(read_only=True, help_text="of a GGUF file; else empty")

    class Meta:
        model = ModelExport
        fields = [
            "id", "adapter", "kind", "weights", "repository", "is_private", "whole_model", "status", "progress",
            "error", "file_name", "url", "size_bytes", "created_at", "expires_at",
        ]  # fmt: skip
        read_only_fields = fields


class ExportOrderSerializer(serializers.Serializer[dict[str, Any]]):
    """In which form a run's model is exported: `merged`, `gguf` with `weights`, or `hub` with `repository`."""

    kind = serializers.ChoiceField(choices=ModelExport.Kind.choices)
    weights = serializers.ChoiceField(
        choices=ModelExport.Weights.choices, allow_blank=True, default="", help_text="of a GGUF file"
    )
    repository = serializers.CharField(max_length=120, allow_blank=True, default="", help_text="owner/name on the hub")
    credential = serializers.CharField(
        max_length=60, allow_blank=True, default="", help_text="name of the team's secret with a hub credential"
    )
    is_private = serializers.BooleanField(default=True)
    whole_model = serializers.BooleanField(default=False, help_text="push the merged model instead of the adapter")


class RunExports(TeamAPIView):
    """The exports of a run's model."""

    scopes = _SCOPES
    query_parameters = PAGE_PARAMETERS

    @extend_schema(
        operation_id="runs_exports_list",
        responses=page_of("ModelExport", ModelExportSerializer),
        parameters=PAGE_SCHEMA,
    )
    def get(self, request: Request, pk: uuid.UUID) -> Response:
        """List exports, the newest first."""
        pages = Pages()
        page = pages.paginate_queryset(self._run(pk).adapter.exports.order_by("-created_at"), request, view=self)
        return pages.get_paginated_response(ModelExportSerializer(page, many=True).data)

    @extend_schema(
        operation_id="runs_exports_create", request=ExportOrderSerializer, responses={201: ModelExportSerializer}
    )
    def post(self, request: Request, pk: uuid.UUID) -> Response:
        """Begin an export; ask for it again until `status` is ready or failed."""
        adapter = self._run(pk).adapter
        order = ExportOrderSerializer(data=request.data)
        order.is_valid(raise_exception=True)
        asked = order.validated_data
        if asked["kind"] == ModelExport.Kind.HUB:
            made = self._push(adapter, asked)
        else:
            made = exports.start_file(adapter=adapter, actor=self.actor, kind=asked["kind"], weights=asked["weights"])
        return Response(ModelExportSerializer(made).data, status=201)

    def _push(self, adapter: Adapter, asked: dict[str, Any]) -> ModelExport:
        try:
            return exports.start_push(
                adapter=adapter,
                actor=self.actor,
                repository=asked["repository"],
                secret_name=asked["credential"],
                is_private=asked["is_private"],
                whole_model=asked["whole_model"],
            )
        except InvalidInput as error:
            if error.param == "secret_name":
                error.param = "credential"
            raise

    def _run(self, pk: uuid.UUID) -> Run:
        runs = self.team.runs.select_related("adapter__team", "adapter__base_model")
        return get_object_or_404(runs, pk=pk, adapter__isnull=False)


class ExportDetail(TeamAPIView):
    """One export."""

    scopes = _SCOPES

    @extend_schema(operation_id="exports_retrieve", responses=ModelExportSerializer)
    def get(self, request: Request, pk: uuid.UUID) -> Response:
        """Say how far an export is."""
        return Response(ModelExportSerializer(_export(self, pk)).data)

    @extend_schema(operation_id="exports_delete", responses={204: None})
    def delete(self, request: Request, pk: uuid.UUID) -> Response:
        """Forget an export and its file; one on its way stops, and what is on a hub stays there."""
        exports.delete_export(export=_export(self, pk), actor=self.actor)
        return Response(status=204)


class ExportFile(TeamAPIView):
    """The file of an export."""

    scopes = Scope.DEPLOYMENTS_READ.value

    @extend_schema(
        operation_id="exports_download",
        responses={(200, "application/octet-stream"): OpenApiResponse(OpenApiTypes.BINARY, description="The file")},
    )
    def get(self, request: Request, pk: uuid.UUID) -> FileResponse:
        """Download the file; 404 until the export is ready, and when its days are over."""
        export = _export(self, pk)
        path = export.folder / export.file_name
        if export.status != ModelExport.Status.READY or not export.file_name or not path.is_file():
            raise NotFound(default_message(404))
        audit.read(self.team, self.actor, "export.downloaded", export, kind=export.kind)
        return FileResponse(path.open("rb"), as_attachment=True, filename=export.file_name)


def _export(view: TeamAPIView, pk: uuid.UUID) -> ModelExport:
    found: ModelExport = get_object_or_404(view.team.modelexports.select_related("team"), pk=pk)
    return found

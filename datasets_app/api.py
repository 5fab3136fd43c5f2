"""Datasets over the API: import, look, read rows, delete."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.db.models import Prefetch, QuerySet
from django.shortcuts import get_object_or_404
from django.utils.translation import gettext as _
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import status
from rest_framework.parsers import JSONParser, MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response

from datasets_app import arrivals, deletion, services
from datasets_app.mapping import Mapping, MappingError
from datasets_app.models import Dataset, DatasetVersion, Split
from datasets_app.options import ImportOptions
from datasets_app.remote.services import start_fetch
from datasets_app.serializers import (
    DatasetImportSerializer,
    DatasetSerializer,
    RowSerializer,
    VersionDetailSerializer,
    VersionImportSerializer,
)
from datasets_app.sources import Reading, refuse_oversize
from datasets_app.stored_rows import StoredRows
from portal import audit
from portal.api.pagination import PAGE_PARAMETERS, PAGE_SCHEMA, Pages, page_of
from portal.api.views import TeamAPIView
from portal.errors import IllegalTransition, InvalidInput
from portal.models import Scope, Team

READ_AND_WRITE = {
    "GET": Scope.DATASETS_READ,
    "POST": Scope.DATASETS_WRITE,
    "DELETE": Scope.DATASETS_WRITE,
}
READING = ("encoding", "delimiter", "part")
REFUSED = OpenApiResponse(description="The error object; `details` lists the faulty rows with line and column.")


class DatasetList(TeamAPIView):
    """All datasets of the team."""

    scopes = READ_AND_WRITE
    query_parameters = PAGE_PARAMETERS
    parser_classes = (MultiPartParser, JSONParser)

    @extend_schema(operation_id="datasets_list", responses=page_of("Dataset", DatasetSerializer), tags=["datasets"])
    def get(self, request: Request) -> Response:
        """List the team's datasets, the newest first."""
        datasets = _datasets(self.team).order_by("-created_at", "pk")
        pages = Pages()
        page = pages.paginate_queryset(datasets, request, view=self)
        return pages.get_paginated_response(DatasetSerializer(page, many=True).data)

    @extend_schema(
        operation_id="datasets_create",
        request={"multipart/form-data": DatasetImportSerializer, "application/json": DatasetImportSerializer},
        responses={201: VersionDetailSerializer, 400: REFUSED, 413: REFUSED},
        tags=["datasets"],
    )
    def post(self, request: Request) -> Response:
        """Import a new dataset; the answer is its first version, which turns from importing to ready.

        Every row of uploaded files is checked before the answer: if one is faulty, nothing is kept and `details` says
        where it is. With a `source` the answer is a version that is being fetched: its `fetch` says how far it is.
        """
        form = DatasetImportSerializer(data=request.data)
        refuse_oversize(request._request)
        form.is_valid(raise_exception=True)
        sent = form.validated_data
        return _import(self, form, name=sent["name"], description=sent["description"])


class DatasetDetail(TeamAPIView):
    """One dataset."""

    scopes = READ_AND_WRITE

    @extend_schema(operation_id="datasets_retrieve", responses=DatasetSerializer, tags=["datasets"])
    def get(self, request: Request, pk: UUID) -> Response:
        """Show a dataset with its versions."""
        dataset = get_object_or_404(_datasets(self.team), pk=pk)
        return Response(DatasetSerializer(dataset).data)

    @extend_schema(operation_id="datasets_destroy", responses={204: None, 409: REFUSED}, tags=["datasets"])
    def delete(self, request: Request, pk: UUID) -> Response:
        """Delete a dataset with all versions and files; refused while runs use it."""
        deletion.delete_dataset(dataset=get_object_or_404(self.team.datasets, pk=pk), actor=self.actor)
        return Response(status=status.HTTP_204_NO_CONTENT)


class VersionCreate(TeamAPIView):
    """New versions of one dataset."""

    scopes = {"POST": Scope.DATASETS_WRITE}
    parser_classes = (MultiPartParser, JSONParser)

    @extend_schema(
        operation_id="datasets_versions_create",
        request={"multipart/form-data": VersionImportSerializer, "application/json": VersionImportSerializer},
        responses={201: VersionDetailSerializer, 400: REFUSED, 413: REFUSED},
        tags=["datasets"],
    )
    def post(self, request: Request, pk: UUID) -> Response:
        """Import a new version of a dataset; earlier versions stay as they are."""
        dataset = get_object_or_404(self.team.datasets, pk=pk)
        form = VersionImportSerializer(data=request.data)
        refuse_oversize(request._request)
        form.is_valid(raise_exception=True)
        return _import(self, form, name=dataset.name, dataset=dataset)


class VersionDetail(TeamAPIView):
    """One version of a dataset."""

    scopes = READ_AND_WRITE

    @extend_schema(operation_id="dataset_versions_retrieve", responses=VersionDetailSerializer, tags=["datasets"])
    def get(self, request: Request, pk: UUID) -> Response:
        """Show a version: its state, counts, files, and what the import found."""
        version = get_object_or_404(self._versions(), pk=pk)
        return Response(VersionDetailSerializer(version).data)

    @extend_schema(operation_id="dataset_versions_destroy", responses={204: None, 409: REFUSED}, tags=["datasets"])
    def delete(self, request: Request, pk: UUID) -> Response:
        """Delete a version, and its dataset if it was the only one; refused while runs use it."""
        deletion.discard_version(version=get_object_or_404(self._versions(), pk=pk), actor=self.actor)
        return Response(status=status.HTTP_204_NO_CONTENT)

    def _versions(self) -> Any:
        return self.team.datasetversions.select_related("dataset").prefetch_related("sources")


class VersionRows(TeamAPIView):
    """The rows of a version."""

    scopes = {"GET": Scope.DATASETS_READ}
    query_parameters = PAGE_PARAMETERS | {"split"}

    @extend_schema(
        operation_id="dataset_versions_rows_list",
        parameters=[
            OpenApiParameter("split", enum=[split.value for split in Split], default=Split.TRAIN.value),
            *PAGE_SCHEMA,
        ],
        responses=page_of("Row", RowSerializer),
        tags=["datasets"],
    )
    def get(self, request: Request, pk: UUID) -> Response:
        """List the rows of one split, as they are trained on."""
        version = get_object_or_404(self.team.datasetversions, pk=pk)
        split = request.query_params.get("split", Split.TRAIN.value)
        if split not in Split.values:
            raise InvalidInput(
                _("There is no split '%(split)s'. The splits are: %(known)s.")
                % {"split": split[:40], "known": ", ".join(Split.values)},
                param="split",
            )
        if version.status != DatasetVersion.Status.READY:
            raise IllegalTransition(_("This version has no rows yet: it is not ready."), code="not_ready")
        audit.read(self.team, self.actor, "dataset.rows_read", version, split=split)
        pages = Pages()
        page = pages.paginate_queryset(StoredRows(version, split), request, view=self)
        return pages.get_paginated_response(RowSerializer(page, many=True).data)  # type: ignore[arg-type]


def _datasets(team: Team) -> QuerySet[Dataset]:
    # A report may name a thousand faulty rows, and changes hold as many; only the version's own address shows them.
    versions = team.datasetversions.select_related("dataset").defer("report", "changes")
    return team.datasets.prefetch_related(Prefetch("versions", versions))


def _import(view: TeamAPIView, form: VersionImportSerializer, **target: Any) -> Response:
    sent = form.validated_data
    if "source" in sent:
        form.refuse_files()
        version = start_fetch(team=view.team, actor=view.actor, source=sent["source"], begin=_ordered(sent), **target)
        return Response(VersionDetailSerializer(version).data, status=status.HTTP_201_CREATED)
    version = services.import_files(
        team=view.team,
        actor=view.actor,
        files=form.files(arrivals.own(view.team, view.actor)),
        mapping=_mapping(sent.get("mapping")),
        options=sent.get("options"),
        reading=_reading(sent),
        **target,
    )
    return Response(VersionDetailSerializer(version).data, status=status.HTTP_201_CREATED)


def _ordered(sent: dict[str, Any]) -> dict[str, object]:
    """Return how a source is to be imported as soon as it is here, checked as far as that goes before."""
    mapping = _mapping(sent.get("mapping"))
    return {
        "mapping": mapping.to_dict() if mapping else None,
        "options": ImportOptions.from_dict(sent.get("options") or {}).to_dict(),
        "reading": {name: sent[name] for name in READING if name in sent},
    }


def _mapping(sent: dict[str, object] | None) -> Mapping | None:
    if sent is None:
        return None
    try:
        return Mapping.from_dict(sent)
    except MappingError as error:
        raise InvalidInput(error.sentence(_), param="mapping", code=error.code) from None


def _reading(sent: dict[str, Any]) -> Reading | None:
    chosen = {name: sent[name] for name in READING if name in sent}
    return Reading(**chosen) if chosen else None

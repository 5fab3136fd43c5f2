"""Rows over the API: search, one row, changes that wait, and the versions that are made of them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.shortcuts import get_object_or_404
from django.utils.translation import gettext as _
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from datasets_app import row_changes
from datasets_app.derive import derive_version
from datasets_app.models import DatasetVersion, RowChange, Split
from datasets_app.row_search import Place, Query, find
from datasets_app.serializers import RowSerializer, VersionDetailSerializer
from datasets_app.stored_rows import present_paths
from portal import audit
from portal.api.pagination import PAGE_PARAMETERS, PAGE_SCHEMA, Pages, page_of
from portal.api.views import TeamAPIView
from portal.errors import IllegalTransition, InvalidInput
from portal.models import Scope

MAX_FOUND = 200
MAX_IDS = 1_000
REFUSED = OpenApiResponse(description="The error object.")


class FoundRowSerializer(RowSerializer):
    """A row with its split."""

    split = serializers.ChoiceField(choices=Split.choices)


class FoundRowsSerializer(serializers.Serializer[dict[str, Any]]):
    """Rows that fit, and where to go on."""

    results = FoundRowSerializer(many=True)
    next = serializers.CharField(allow_null=True, help_text="Send it as `after` to go on; null at the end.")
    searched = serializers.IntegerField(help_text="Rows that were looked at for this answer.")


class RowChangeSerializer(serializers.ModelSerializer[RowChange]):
    """What waits to become of a row."""

    moved_to = serializers.CharField(read_only=True, help_text="A split; empty if the row stays where it is.")

    class Meta:
        model = RowChange
        fields = ("row_id", "split", "is_excluded", "moved_to", "texts", "changed_at")
        read_only_fields = fields


class RowEditSerializer(serializers.Serializer[dict[str, Any]]):
    """What is to become of a row; what is left out stays, a text that is null becomes the old one again."""

    prompt = serializers.CharField(required=False, allow_null=True, trim_whitespace=False)
    answer = serializers.CharField(required=False, allow_null=True, trim_whitespace=False)
    system = serializers.CharField(required=False, allow_null=True, allow_blank=True, trim_whitespace=False)
    is_excluded = serializers.BooleanField(required=False)
    split = serializers.ChoiceField(choices=Split.choices, required=False)


class RowEditOfManySerializer(RowEditSerializer):
    """The same for one of several rows."""

    id = serializers.IntegerField(min_value=1)


class RowEditsSerializer(serializers.Serializer[dict[str, Any]]):
    """Changes of up to 1,000 rows."""

    changes = RowEditOfManySerializer(many=True, allow_empty=False, max_length=row_changes.MAX_AT_ONCE)  # type: ignore[call-arg]


class DeriveSerializer(serializers.Serializer[dict[str, Any]]):
    """How a new version is made."""

    changes = serializers.ListField(
        child=serializers.DictField(),
        required=False,
        help_text='Operations in order: {"op": "exclude", "ids": [3]}, {"op": "replace", "id": 3, "answer": "…"}, '
        '{"op": "move", "ids": [3], "split": "test"}, {"op": "add", "rows": [{"prompt": "…", "answer": "…"}]} and '
        "those of the doctor. Left out: the changes that wait.",
    )
    note = serializers.CharField(required=False, allow_blank=True, default="", max_length=300)


def ready_version(view: TeamAPIView, pk: UUID) -> DatasetVersion:
    """Return a version of the caller's team that has rows. Raises: Http404, IllegalTransition."""
    version = get_object_or_404(view.team.datasetversions.select_related("dataset", "team"), pk=pk)
    if version.status != DatasetVersion.Status.READY:
        raise IllegalTransition(_("This version has no rows yet: it is not ready."), code="not_ready")
    return version


def _row(split: Split, row: Any) -> dict[str, Any]:
    return {"id": row.id, "row": row.row, "messages": list(row.messages), "split": split.value}


class RowSearch(TeamAPIView):
    """Rows that fit a search."""

    scopes = {"GET": Scope.DATASETS_READ}
    query_parameters = frozenset({"q", "field", "value", "ids", "split", "after", "page_size"})

    @extend_schema(
        operation_id="dataset_versions_rows_search",
        parameters=[
            OpenApiParameter("q", str, description="Text in any message; case does not matter."),
            OpenApiParameter("field", str, description="A field of the JSON answers."),
            OpenApiParameter("value", str, description="Its value; left out: any."),
            OpenApiParameter("ids", str, description="Numbers of up to 1,000 rows, with commas."),
            OpenApiParameter("split", enum=Split.values),
            OpenApiParameter("after", str, description="`next` of the answer before."),
            OpenApiParameter("page_size", int, description="Up to 200."),
        ],
        responses=FoundRowsSerializer,
        tags=["datasets"],
    )
    def get(self, request: Request, pk: UUID) -> Response:
        """Find rows by text, by a field's value or by number, in all splits or in one."""
        version = ready_version(self, pk)
        asked = request.query_params
        split = asked.get("split")
        if split is not None and split not in Split.values:
            raise InvalidInput(_("The splits are: %(known)s.") % {"known": ", ".join(Split.values)}, param="split")
        after = Place.parse(asked["after"]) if "after" in asked else None
        if "after" in asked and after is None:
            raise InvalidInput(_("Send 'after' as an answer's 'next' said it."), param="after")
        query = Query(
            text=asked.get("q", "").replace("\0", "")[:200],
            field=asked.get("field", "")[:200],
            value=asked.get("value", "")[:2000],
            ids=_numbers(asked["ids"]) if "ids" in asked else None,
        )
        paths = {one: path for one, path in present_paths(version).items() if split in (None, one.value)}
        audit.read(self.team, self.actor, "dataset.rows_read", version)
        found = find(paths, query, count=_size(asked.get("page_size")), after=after)
        body = {
            "results": [_row(*one) for one in found.rows],
            "next": str(found.next) if found.next else None,
            "searched": found.searched,
        }
        return Response(FoundRowsSerializer(body).data)


def _size(asked: str | None) -> int:
    if asked is None:
        return 50
    if not asked.isascii() or not asked.isdigit() or not 1 <= int(asked[:9]) <= MAX_FOUND:
        raise InvalidInput(_("'page_size' must be from 1 to %(limit)d.") % {"limit": MAX_FOUND}, param="page_size")
    return int(asked)


def _numbers(ids: str) -> frozenset[int]:
    parts = ids.split(",")
    if len(parts) > MAX_IDS or not all(part.isascii() and part.isdigit() and len(part) < 16 for part in parts):
        raise InvalidInput(_("Send 'ids' as numbers with commas, at most 1,000."), param="ids")
    return frozenset(map(int, parts))


class RowDetail(TeamAPIView):
    """One row."""

    scopes = {"GET": Scope.DATASETS_READ, "PATCH": Scope.DATASETS_WRITE}

    @extend_schema(operation_id="dataset_versions_rows_retrieve", responses=FoundRowSerializer, tags=["datasets"])
    def get(self, request: Request, pk: UUID, row_id: int) -> Response:
        """Show one row as it is in this version."""
        version = ready_version(self, pk)
        found = row_changes.row_of(version, row_id)
        audit.read(self.team, self.actor, "dataset.rows_read", version, row=row_id)
        return Response(FoundRowSerializer(_row(*found)).data)  # type: ignore[arg-type]

    @extend_schema(
        operation_id="dataset_versions_rows_partial_update",
        request=RowEditSerializer,
        responses={200: RowChangeSerializer, 204: None, 409: REFUSED},
        tags=["datasets"],
    )
    def patch(self, request: Request, pk: UUID, row_id: int) -> Response:
        """Note what is to become of a row; the version stays. 204 if the row is as it was again."""
        version = ready_version(self, pk)
        form = RowEditSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        row_changes.change_rows(version=version, actor=self.actor, changes={row_id: form.validated_data})
        change = version.row_changes.filter(row_id=row_id).first()
        if change is None:
            return Response(status=status.HTTP_204_NO_CONTENT)
        return Response(RowChangeSerializer(change).data)


class RowChanges(TeamAPIView):
    """Changes of rows that wait to be saved as a new version."""

    scopes = {"GET": Scope.DATASETS_READ, "POST": Scope.DATASETS_WRITE, "DELETE": Scope.DATASETS_WRITE}
    query_parameters = PAGE_PARAMETERS

    @extend_schema(
        operation_id="dataset_versions_changes_list",
        parameters=PAGE_SCHEMA,
        responses=page_of("RowChange", RowChangeSerializer),
        tags=["datasets"],
    )
    def get(self, request: Request, pk: UUID) -> Response:
        """List the changes that wait, by row."""
        version = ready_version(self, pk)
        audit.read(self.team, self.actor, "dataset.rows_read", version, changes=True)
        pages = Pages()
        page = pages.paginate_queryset(version.row_changes.order_by("row_id"), request, view=self)
        return pages.get_paginated_response(RowChangeSerializer(page, many=True).data)

    @extend_schema(
        operation_id="dataset_versions_changes_create",
        request=RowEditsSerializer,
        responses={200: RowChangeSerializer(many=True), 404: REFUSED, 409: REFUSED},
        tags=["datasets"],
    )
    def post(self, request: Request, pk: UUID) -> Response:
        """Note changes of several rows: all of them or, if one does not fit, none."""
        version = ready_version(self, pk)
        form = RowEditsSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        changes = {
            one["id"]: {name: one[name] for name in one if name != "id"} for one in form.validated_data["changes"]
        }
        row_changes.change_rows(version=version, actor=self.actor, changes=changes)
        noted = version.row_changes.filter(row_id__in=changes).order_by("row_id")
        return Response(RowChangeSerializer(noted, many=True).data)

    @extend_schema(operation_id="dataset_versions_changes_destroy", responses={204: None}, tags=["datasets"])
    def delete(self, request: Request, pk: UUID) -> Response:
        """Forget all changes that wait."""
        row_changes.undo_changes(version=ready_version(self, pk), actor=self.actor)
        return Response(status=status.HTTP_204_NO_CONTENT)


class Derive(TeamAPIView):
    """New versions made from this one."""

    scopes = {"POST": Scope.DATASETS_WRITE}

    @extend_schema(
        operation_id="dataset_versions_derive",
        request=DeriveSerializer,
        responses={201: VersionDetailSerializer, 400: REFUSED, 409: REFUSED, 429: REFUSED},
        tags=["datasets"],
    )
    def post(self, request: Request, pk: UUID) -> Response:
        """Make a new version by changes, or of all changes that wait; it turns from importing to ready."""
        version = ready_version(self, pk)
        form = DeriveSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        sent = form.validated_data
        if "changes" in sent:
            made = derive_version(version=version, actor=self.actor, changes=sent["changes"], note=sent["note"])
        else:
            made = row_changes.save_changes(version=version, actor=self.actor, note=sent["note"])
        return Response(VersionDetailSerializer(made).data, status=status.HTTP_201_CREATED)

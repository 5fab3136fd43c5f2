"""Versions over the API: compare, download, delete with a way back."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.core.paginator import Paginator
from django.http import HttpResponseBase
from django.shortcuts import get_object_or_404
from django.utils.translation import gettext as _
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from datasets_app import deletion, downloads, row_changes, version_diff
from datasets_app.api_rows import FoundRowSerializer, ready_version
from datasets_app.models import Dataset, DatasetVersion, Split
from datasets_app.serializers import DatasetSerializer, VersionDetailSerializer
from portal import audit
from portal.api.pagination import PAGE_PARAMETERS, Pages, page_of
from portal.api.views import TeamAPIView
from portal.errors import InvalidInput
from portal.models import Scope

PAIRS_PER_PAGE = 50


class DiffCountsSerializer(serializers.Serializer[dict[str, int]]):
    """How many rows differ, and how."""

    changed = serializers.IntegerField()
    added = serializers.IntegerField()
    removed = serializers.IntegerField()
    moved = serializers.IntegerField()
    same = serializers.IntegerField()


class DiffPairSerializer(serializers.Serializer[dict[str, Any]]):
    """One row before and after; null where there is none."""

    before = FoundRowSerializer(allow_null=True)
    after = FoundRowSerializer(allow_null=True)


class DiffSettingSerializer(serializers.Serializer[dict[str, Any]]):
    """One setting of the import, or the values of a field, before and after."""

    name = serializers.CharField()
    before = serializers.JSONField(allow_null=True)
    after = serializers.JSONField(allow_null=True)


class DiffSerializer(serializers.Serializer[dict[str, Any]]):
    """What differs between two versions."""

    is_equal = serializers.BooleanField(help_text="The content hashes are equal.")
    counts = DiffCountsSerializer()
    settings = DiffSettingSerializer(many=True)
    kind = serializers.ChoiceField(choices=version_diff.KINDS)
    pages = serializers.IntegerField()
    results = DiffPairSerializer(many=True)


class DeletedDatasetSerializer(serializers.ModelSerializer[Dataset]):
    """A dataset that can still be restored."""

    gone_at = serializers.SerializerMethodField()

    class Meta:
        model = Dataset
        fields = ("id", "name", "deleted_at", "gone_at")
        read_only_fields = fields

    def get_gone_at(self, dataset: Dataset) -> str | None:
        """When it goes for good."""
        return deletion.gone_at(dataset.deleted_at).isoformat() if dataset.deleted_at else None


class RestoreSerializer(serializers.Serializer[dict[str, Any]]):
    """How a dataset comes back."""

    name = serializers.CharField(required=False, allow_blank=True, default="", max_length=120)


class VersionDiff(TeamAPIView):
    """What differs between two versions."""

    scopes = {"GET": Scope.DATASETS_READ}
    query_parameters = frozenset({"from", "kind", "page"})

    @extend_schema(
        operation_id="dataset_versions_diff",
        parameters=[
            OpenApiParameter("from", OpenApiTypes.UUID, description="The other version; left out: the one before."),
            OpenApiParameter("kind", enum=version_diff.KINDS, default="changed"),
            OpenApiParameter("page", int, description="50 rows each."),
        ],
        responses=DiffSerializer,
        tags=["datasets"],
    )
    def get(self, request: Request, pk: UUID) -> Response:
        """Compare this version with an earlier one: counts, settings, and the rows of one kind page by page."""
        new = ready_version(self, pk)
        old = self._other(new, request.query_params.get("from"))
        kind = request.query_params.get("kind", "changed")
        if kind not in version_diff.KINDS:
            known = ", ".join(version_diff.KINDS)
            raise InvalidInput(_("The kinds are: %(known)s.") % {"known": known}, param="kind")
        audit.read(self.team, self.actor, "dataset.rows_read", new, compared_with=str(old.pk))
        found = version_diff.compare(old, new)
        pages = Paginator(found.pairs(kind), PAIRS_PER_PAGE)
        page = pages.get_page(request.query_params.get("page"))
        body = {
            "is_equal": old.content_hash == new.content_hash,
            "counts": found.counts,
            "settings": [
                {"name": name, "before": before, "after": after}
                for name, before, after in version_diff.settings_changes(old, new)
            ],
            "kind": kind,
            "pages": pages.num_pages,
            "results": _pairs(old, new, list(page)),
        }
        return Response(DiffSerializer(body).data)

    def _other(self, new: DatasetVersion, asked: str | None) -> DatasetVersion:
        if asked is None:
            siblings = new.dataset.versions.filter(status=DatasetVersion.Status.READY, number__lt=new.number)
            parent = siblings.filter(children=new).first()
            before = parent or siblings.order_by("-number").first()
            if before is None:
                raise InvalidInput(_("There is no version before this one. Send 'from'."), param="from")
            return ready_version(self, before.pk)
        try:
            key = UUID(asked)
        except ValueError:
            raise InvalidInput(_("'from' must be the id of a version."), param="from") from None
        old = ready_version(self, key)
        if old.dataset_id != new.dataset_id:
            raise InvalidInput(_("Both versions must be of one dataset."), param="from")
        return old


def _pairs(
    old: DatasetVersion, new: DatasetVersion, pairs: list[tuple[int | None, int | None]]
) -> list[dict[str, Any]]:
    before = row_changes.rows_by_id(old, [one for one, _other in pairs if one])
    after = row_changes.rows_by_id(new, [other for _one, other in pairs if other])
    return [{"before": _placed(before.get(one or 0)), "after": _placed(after.get(other or 0))} for one, other in pairs]


def _placed(found: tuple[Split, Any] | None) -> dict[str, Any] | None:
    if found is None:
        return None
    split, row = found
    worse = {"rejected": row.rejected} if row.rejected else {}
    return {"id": row.id, "row": row.row, "messages": list(row.messages), "split": split.value, **worse}


class VersionDownload(TeamAPIView):
    """The rows of a version as a file."""

    scopes = {"GET": Scope.DATASETS_READ}
    query_parameters = frozenset({"split", "as"})

    @extend_schema(
        operation_id="dataset_versions_download",
        parameters=[
            OpenApiParameter("split", enum=[downloads.ALL, *Split.values], default=downloads.ALL),
            OpenApiParameter("as", enum=downloads.KINDS, default="csv"),
        ],
        responses={(200, kind): OpenApiTypes.BINARY for kind in downloads.CONTENT_TYPES.values()},
        tags=["datasets"],
    )
    def get(self, request: Request, pk: UUID) -> HttpResponseBase:
        """Download rows: all of them as CSV, or one split as CSV, JSON lines or Parquet."""
        version = ready_version(self, pk)
        split, kind = request.query_params.get("split", downloads.ALL), request.query_params.get("as", "csv")
        answer = downloads.response(version, split, kind)
        audit.read(self.team, self.actor, "dataset.downloaded", version, split=split, kind=kind)
        return answer


class DeletedDatasets(TeamAPIView):
    """Datasets that were deleted and can still be restored."""

    scopes = {"GET": Scope.DATASETS_READ}
    query_parameters = PAGE_PARAMETERS

    @extend_schema(
        operation_id="datasets_deleted_list",
        responses=page_of("DeletedDataset", DeletedDatasetSerializer),
        tags=["datasets"],
    )
    def get(self, request: Request) -> Response:
        """List deleted datasets, the last one first; each goes for good 30 days after it was deleted."""
        gone = self.team.datasets(manager="with_deleted").exclude(deleted_at=None).order_by("-deleted_at", "pk")
        pages = Pages()
        page = pages.paginate_queryset(gone, request, view=self)
        return pages.get_paginated_response(DeletedDatasetSerializer(page, many=True).data)


class DatasetRestore(TeamAPIView):
    """Bring a dataset back."""

    scopes = {"POST": Scope.DATASETS_WRITE}

    @extend_schema(
        operation_id="datasets_restore", request=RestoreSerializer, responses=DatasetSerializer, tags=["datasets"]
    )
    def post(self, request: Request, pk: UUID) -> Response:
        """Restore a deleted dataset with the versions that went with it, if need be under another name."""
        gone = get_object_or_404(self.team.datasets(manager="with_deleted"), pk=pk)
        form = RestoreSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        dataset = deletion.restore_dataset(dataset=gone, actor=self.actor, name=form.validated_data["name"])
        return Response(DatasetSerializer(dataset).data)


class VersionRestore(TeamAPIView):
    """Bring a version back."""

    scopes = {"POST": Scope.DATASETS_WRITE}

    @extend_schema(
        operation_id="dataset_versions_restore", request=None, responses=VersionDetailSerializer, tags=["datasets"]
    )
    def post(self, request: Request, pk: UUID) -> Response:
        """Restore a deleted version of a dataset that is not deleted itself."""
        gone = get_object_or_404(self.team.datasetversions(manager="with_deleted").select_related("dataset"), pk=pk)
        return Response(VersionDetailSerializer(deletion.restore_version(version=gone, actor=self.actor)).data)

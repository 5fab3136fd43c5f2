"""The dataset doctor over the API: reports, findings, fixes, and the schema of answers."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.http import Http404
from django.shortcuts import get_object_or_404
from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema, inline_serializer
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from datasets_app import doctor_serializers as shapes
from datasets_app.answer_schemas import revisions
from datasets_app.answer_schemas.origins import current_schema
from datasets_app.doctor.report import read_ids
from datasets_app.doctor_reports import display, lifecycle, services
from datasets_app.models import DatasetVersion, DoctorReport
from datasets_app.serializers import VersionSerializer
from portal import audit
from portal.api.pagination import PAGE_PARAMETERS, PAGE_SCHEMA, Pages
from portal.api.views import TeamAPIView
from portal.errors import IllegalTransition
from portal.models import Scope

READ_AND_WRITE = {
    "GET": Scope.DATASETS_READ,
    "POST": Scope.DATASETS_WRITE,
    "PUT": Scope.DATASETS_WRITE,
    "DELETE": Scope.DATASETS_WRITE,
}


class _OfVersion(TeamAPIView):
    """A view of something that belongs to one version."""

    scopes = READ_AND_WRITE

    def version(self, pk: UUID) -> DatasetVersion:
        """Return the team's version, or 404."""
        return get_object_or_404(self.team.datasetversions.select_related("dataset", "team"), pk=pk)

    def read(self, shape: type[serializers.Serializer[Any]]) -> Any:
        """Return the checked input of the request, or raise the error that names the field."""
        given = shape(data=self.request.data)
        given.is_valid(raise_exception=True)
        return given.validated_data

    def latest(self, version: DatasetVersion) -> DoctorReport:
        """Return the newest report in whatever state it is, or 404."""
        latest = version.doctor_reports.select_related("base_model").first()
        if latest is None:
            raise Http404
        return latest

    def ready(self, version: DatasetVersion) -> DoctorReport:
        """Return the newest report that is ready, or 404."""
        found = lifecycle.newest_report(version)
        if found is None:
            raise Http404
        return found


class VersionDoctor(_OfVersion):
    """The doctor's report of a version."""

    @extend_schema(operation_id="doctor_report_retrieve", responses=shapes.DoctorReportSerializer, tags=["datasets"])
    def get(self, request: Request, pk: UUID) -> Response:
        """Show the newest report: how far it is, or what it found."""
        latest = self.latest(self.version(pk))
        audit.read(self.team, self.actor, "doctor.read", latest.version)
        return Response(shapes.DoctorReportSerializer(latest).data)

    @extend_schema(
        operation_id="doctor_report_create",
        request=shapes.DoctorStartSerializer,
        responses={201: shapes.DoctorReportSerializer},
        tags=["datasets"],
    )
    def post(self, request: Request, pk: UUID) -> Response:
        """Examine a version again, maybe with another base model or other limits."""
        version = self.version(pk)
        sent = self.read(shapes.DoctorStartSerializer)
        report = services.start_report(version=version, actor=self.actor, **sent)
        return Response(shapes.DoctorReportSerializer(report).data, status=status.HTTP_201_CREATED)

    @extend_schema(operation_id="doctor_report_cancel", responses={204: None}, tags=["datasets"])
    def delete(self, request: Request, pk: UUID) -> Response:
        """Cancel the examination that waits or runs; reports that are ready stay."""
        services.cancel_report(report=self.latest(self.version(pk)), actor=self.actor)
        return Response(status=status.HTTP_204_NO_CONTENT)


class VersionFinding(_OfVersion):
    """The rows of one finding."""

    scopes = {"GET": Scope.DATASETS_READ}
    query_parameters = PAGE_PARAMETERS

    @extend_schema(
        operation_id="doctor_finding_rows_list",
        parameters=PAGE_SCHEMA,
        responses=inline_serializer(
            "FindingRowsPage",
            {
                "count": serializers.IntegerField(),
                "next": serializers.URLField(allow_null=True),
                "previous": serializers.URLField(allow_null=True),
                "results": serializers.ListField(child=serializers.IntegerField()),
            },
        ),
        tags=["datasets"],
    )
    def get(self, request: Request, pk: UUID, code: str) -> Response:
        """List the numbers of all rows that a finding of the newest ready report is about."""
        report = self.ready(self.version(pk))
        found = display.stored_report(report)
        if found is None or found.finding(code) is None:
            raise Http404
        try:
            ids = read_ids(report.folder, code).tolist()
        except FileNotFoundError:
            ids = []  # a finding about the dataset as a whole has no rows
        pages = Pages()
        return pages.get_paginated_response(pages.paginate_queryset(ids, request, view=self))


class VersionFixes(_OfVersion):
    """Fixes of what the doctor found."""

    scopes = {"POST": Scope.DATASETS_WRITE}

    @extend_schema(
        operation_id="doctor_fixes_create",
        request=shapes.DoctorFixesSerializer,
        responses={201: VersionSerializer, 204: None},
        tags=["datasets"],
    )
    def post(self, request: Request, pk: UUID) -> Response:
        """Make one new version with the fixes; 204 if only decisions to keep personal data were sent."""
        version = self.version(pk)
        sent = self.read(shapes.DoctorFixesSerializer)
        report = self.ready(version)
        if report.pk != sent["report"]:
            raise IllegalTransition(
                _("There is a newer report by now. Look at it and choose again."), code="report_old"
            )
        made = services.apply_fixes(
            report=report, actor=self.actor, chosen=sent["fixes"], verdicts=sent["labels"], note=sent["note"]
        )
        if made is None:
            return Response(status=status.HTTP_204_NO_CONTENT)
        return Response(VersionSerializer(made).data, status=status.HTTP_201_CREATED)


class VersionSchema(_OfVersion):
    """The schema of a version's answers."""

    @extend_schema(operation_id="answer_schema_retrieve", responses=shapes.AnswerSchemaSerializer, tags=["datasets"])
    def get(self, request: Request, pk: UUID) -> Response:
        """Show the schema that counts; 404 as long as the doctor has found none."""
        current = current_schema(self.version(pk))
        if current is None:
            raise Http404
        return Response(shapes.AnswerSchemaSerializer(current).data)

    @extend_schema(
        operation_id="answer_schema_update",
        request=shapes.AnswerSchemaEditSerializer,
        responses={200: shapes.AnswerSchemaSerializer},
        tags=["datasets"],
    )
    def put(self, request: Request, pk: UUID) -> Response:
        """Add a revision of the schema, and let the doctor check the rows against it; no row changes."""
        version = self.version(pk)
        sent = self.read(shapes.AnswerSchemaEditSerializer)
        made = revisions.edit_schema(
            version=version, actor=self.actor, schema=sent["schema"], based_on=sent["based_on"]
        )
        return Response(shapes.AnswerSchemaSerializer(made).data)

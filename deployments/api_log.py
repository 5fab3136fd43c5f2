"""The resource API of the request log: what was asked of a deployment, and whether its texts are kept."""

from __future__ import annotations

import uuid
from typing import Any

from django.db.models import QuerySet
from django.shortcuts import get_object_or_404
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_field, inline_serializer
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from deployments import request_log
from deployments.models import Deployment, InferenceRecord, LoggedText
from portal import audit
from portal.api.views import TeamAPIView
from portal.errors import InvalidInput, NotFound
from portal.models import Scope
from portal.views.errors import default_message

_PER_PAGE = 50
_LARGEST_KEY = 10**15
_FILTERS = [
    OpenApiParameter("before", int, description="Go on behind the request with this id."),
    OpenApiParameter("version", int, description="Number of the version that answered."),
    OpenApiParameter("status", int, description="HTTP status; 499 for callers who hung up."),
    OpenApiParameter("request_id", str, description="As the answer's `x-request-id` said."),
    OpenApiParameter("corrected", bool, description="Only those whose answer somebody has corrected."),
]


class LoggedTextSerializer(serializers.ModelSerializer[LoggedText]):
    """What was asked and answered, and what the answer should have been."""

    messages = serializers.ListField(child=serializers.DictField(), read_only=True)

    class Meta:
        model = LoggedText
        fields = ["messages", "answer", "correction", "corrected_at", "taken_into", "kept_until"]
        read_only_fields = fields


class LoggedRequestSerializer(serializers.ModelSerializer[InferenceRecord]):
    """One request with counts and times."""

    version = serializers.IntegerField(source="version.number", read_only=True)
    attempt = serializers.ChoiceField(
        choices=InferenceRecord.Attempt.choices,
        read_only=True,
        help_text="replaced: the canary could not answer, and the record of the live version has the same request_id; "
        "instead: that record; empty: there is only one",
    )
    has_text = serializers.SerializerMethodField(help_text="whether what was asked and answered is kept")

    class Meta:
        model = InferenceRecord
        fields = [
            "id", "request_id", "at", "version", "status", "attempt", "streamed", "prompt_tokens", "completion_tokens",
            "first_token_ms", "duration_ms", "has_text",
        ]  # fmt: skip
        read_only_fields = fields

    def get_has_text(self, record: InferenceRecord) -> bool:
        return hasattr(record, "text")


class LoggedRequestDetailSerializer(LoggedRequestSerializer):
    """One request with its texts, null where they are not kept."""

    text = serializers.SerializerMethodField()

    class Meta(LoggedRequestSerializer.Meta):
        fields = [*LoggedRequestSerializer.Meta.fields, "text"]
        read_only_fields = fields

    @extend_schema_field(LoggedTextSerializer(allow_null=True))
    def get_text(self, record: InferenceRecord) -> dict[str, Any] | None:
        return dict(LoggedTextSerializer(record.text).data) if hasattr(record, "text") else None


class CorrectionSerializer(serializers.Serializer[dict[str, Any]]):
    """What the answer should have been; empty takes a correction back."""

    correction = serializers.CharField(allow_blank=True, trim_whitespace=False)


class LogSettingsSerializer(serializers.ModelSerializer[Deployment]):
    """Whether what is asked and answered is kept from now on, and for how many days."""

    log_days = serializers.IntegerField(min_value=1, max_value=request_log.MOST_DAYS)
    logs_text = serializers.BooleanField()

    class Meta:
        model = Deployment
        fields = ["logs_text", "log_days"]


class _LogView(TeamAPIView):
    """What the views of one deployment's log share."""

    scopes = {
        "GET": Scope.DEPLOYMENTS_READ.value,
        "PUT": Scope.DEPLOYMENTS_WRITE.value,
        "PATCH": Scope.DEPLOYMENTS_WRITE.value,
        "DELETE": Scope.DEPLOYMENTS_WRITE.value,
    }

    def deployment(self, pk: uuid.UUID) -> Deployment:
        """Return the team's deployment with this key, or 404."""
        found: Deployment = get_object_or_404(self.team.deployments.select_related("team"), pk=pk)
        return found

    def records(self, deployment: Deployment) -> QuerySet[InferenceRecord]:
        """Return its requests with what the serializers read."""
        rows: QuerySet[InferenceRecord] = self.team.inferencerecords.filter(version__deployment=deployment)
        return rows.select_related("version", "text")


class Requests(_LogView):
    """The requests to a deployment."""

    query_parameters = frozenset(str(one.name) for one in _FILTERS)

    @extend_schema(
        operation_id="deployments_requests_list",
        parameters=_FILTERS,
        responses=inline_serializer(
            "LoggedRequestList",
            {
                "results": LoggedRequestSerializer(many=True),
                "older": serializers.IntegerField(
                    allow_null=True, help_text="`before` of the next page, if there is one"
                ),
            },
        ),
    )
    def get(self, request: Request, pk: uuid.UUID) -> Response:
        """List requests with counts and times, the newest first, fifty at a time; without their texts."""
        found = self.records(self.deployment(pk))
        for name, field in (("before", "pk__lt"), ("version", "version__number"), ("status", "status")):
            if (number := self._number(name)) is not None:
                found = found.filter(**{field: number})
        if request_id := request.query_params.get("request_id"):
            found = found.filter(request_id=request_id.replace("\0", "")[:64])
        if request.query_params.get("corrected") in ("true", "1"):
            found = found.filter(text__correction__gt="")
        rows = list(found.order_by("-pk")[: _PER_PAGE + 1])
        older = rows[_PER_PAGE - 1].pk if len(rows) > _PER_PAGE else None
        return Response({"results": LoggedRequestSerializer(rows[:_PER_PAGE], many=True).data, "older": older})

    def _number(self, name: str) -> int | None:
        given = self.request.query_params.get(name)
        if given is None:
            return None
        most = _LARGEST_KEY if name == "before" else 32_767
        if not (given.isascii() and given.isdecimal() and len(given) < 16 and int(given) <= most):
            raise InvalidInput(default_message(400), param=name)
        return int(given)


class RequestDetail(_LogView):
    """One request."""

    @extend_schema(operation_id="deployments_requests_retrieve", responses=LoggedRequestDetailSerializer)
    def get(self, request: Request, pk: uuid.UUID, record: int) -> Response:
        """Show a request with its texts; reading them is written into the audit trail."""
        deployment = self.deployment(pk)
        found = self._record(deployment, record)
        if hasattr(found, "text"):
            audit.read(self.team, self.actor, "request.texts_read", deployment, record=found.pk)
        return Response(LoggedRequestDetailSerializer(found).data)

    @extend_schema(
        operation_id="deployments_requests_correct",
        request=CorrectionSerializer,
        responses=LoggedRequestDetailSerializer,
    )
    def patch(self, request: Request, pk: uuid.UUID, record: int) -> Response:
        """Say what the answer should have been; 404 where its texts are not kept."""
        deployment = self.deployment(pk)
        found = self._record(deployment, record)
        text: LoggedText | None = getattr(found, "text", None)
        if text is None:
            raise NotFound(default_message(404))
        form = CorrectionSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        request_log.correct(text=text, actor=self.actor, correction=form.validated_data["correction"])
        return Response(LoggedRequestDetailSerializer(self._record(deployment, record)).data)

    def _record(self, deployment: Deployment, record: int) -> InferenceRecord:
        if record > _LARGEST_KEY:
            raise NotFound(default_message(404))
        return get_object_or_404(self.records(deployment), pk=record)


class LogSettings(_LogView):
    """Whether texts are kept."""

    @extend_schema(operation_id="deployments_log_retrieve", responses=LogSettingsSerializer)
    def get(self, request: Request, pk: uuid.UUID) -> Response:
        """Say whether texts are kept, and for how long."""
        return Response(LogSettingsSerializer(self.deployment(pk)).data)

    @extend_schema(
        operation_id="deployments_log_replace", request=LogSettingsSerializer, responses={200: LogSettingsSerializer}
    )
    def put(self, request: Request, pk: uuid.UUID) -> Response:
        """Switch the keeping of texts on or off; fewer days hold for older texts, too."""
        deployment = self.deployment(pk)
        form = LogSettingsSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        given = form.validated_data
        changed = request_log.set_log(
            deployment=deployment, actor=self.actor, logs_text=given["logs_text"], days=given["log_days"]
        )
        return Response(LogSettingsSerializer(changed).data)

    @extend_schema(operation_id="deployments_log_delete", responses={204: None})
    def delete(self, request: Request, pk: uuid.UUID) -> Response:
        """Delete all kept texts; counts stay, and so do rows that corrections became."""
        request_log.delete_texts(deployment=self.deployment(pk), actor=self.actor)
        return Response(status=204)

"""The resource API of the tracker: where a team's figures are copied to, and how that goes."""

from __future__ import annotations

from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from experiments.trackers import services
from experiments.trackers.models import LONGEST_ADDRESS, LONGEST_EXPERIMENT, TrackedRun, TrackerSetting
from portal.api.views import TeamAPIView
from portal.models import Scope

_SHOWN_RUNS = 20


class CopiedRunSerializer(serializers.ModelSerializer[TrackedRun]):
    """How far one run has been copied; `problem` says why the last try failed, if it did."""

    url = serializers.CharField(read_only=True, help_text="where people see it at the tracker")

    class Meta:
        model = TrackedRun
        fields = ["run", "status", "sent_step", "sent_at", "problem", "url"]
        read_only_fields = fields


class TrackerSerializer(serializers.ModelSerializer[TrackerSetting]):
    """An MLflow tracking server. `secret` is the name of its stored key; the key itself is never shown."""

    address = serializers.CharField(max_length=LONGEST_ADDRESS, help_text="without /api at the end")
    experiment = serializers.CharField(
        max_length=LONGEST_EXPERIMENT, default=services.DEFAULT_EXPERIMENT, help_text="made if it is not there"
    )
    secret = serializers.CharField(
        max_length=60, allow_blank=True, default="", help_text="name of a stored key; empty: the server wants none"
    )
    runs = serializers.SerializerMethodField(help_text="the last runs that were copied")

    class Meta:
        model = TrackerSetting
        fields = ["address", "experiment", "secret", "updated_at", "runs"]
        read_only_fields = ["updated_at", "runs"]

    @extend_schema_field(CopiedRunSerializer(many=True))
    def get_runs(self, setting: TrackerSetting) -> list[dict[str, object]]:
        """Return the last runs."""
        rows = TrackedRun.unscoped.filter(tracker=setting).select_related("tracker")[:_SHOWN_RUNS]
        return list(CopiedRunSerializer(rows, many=True).data)


class Tracker(TeamAPIView):
    """Where the team's figures are copied to."""

    scopes = {"GET": Scope.RUNS_READ.value, "PUT": Scope.RUNS_WRITE.value, "DELETE": Scope.RUNS_WRITE.value}

    @extend_schema(operation_id="tracker_retrieve", responses=TrackerSerializer)
    def get(self, request: Request) -> Response:
        """Show the tracker and the last runs that were copied there; for tokens of the team's admins."""
        return Response(TrackerSerializer(self._setting()).data)

    @extend_schema(operation_id="tracker_replace", request=TrackerSerializer, responses={200: TrackerSerializer})
    def put(self, request: Request) -> Response:
        """Copy the figures of runs to this tracker from now on; for tokens of the team's admins."""
        form = TrackerSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        found = services.set_tracker(team=self.team, actor=self.actor, **form.validated_data)
        return Response(TrackerSerializer(found).data)

    @extend_schema(operation_id="tracker_delete", responses={204: None})
    def delete(self, request: Request) -> Response:
        """Copy nothing any more; what was copied stays there. For tokens of the team's admins."""
        services.remove_tracker(setting=self._setting(), actor=self.actor)
        return Response(status=204)

    def _setting(self) -> TrackerSetting:
        return services.tracker_of(team=self.team, actor=self.actor)

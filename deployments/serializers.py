"""What the API says about deployments: allow-lists, field by field. Engines, nodes and adapter names stay inside."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from deployments.canaries import LEAST_SHARE, MOST_SHARE
from deployments.history import MAX_REASON
from deployments.models import Deployment, DeploymentVersion
from deployments.services import LONGEST_SLEEP_MINUTES, MAX_ANSWER_TOKENS, MAX_SYSTEM_PROMPT
from deployments.states import Standing, State, standing_of
from experiments.models import Run
from experiments.serializers import TeamSerializer


class DeploymentVersionSerializer(serializers.ModelSerializer[DeploymentVersion]):
    """One adapter with its settings behind a deployment."""

    response_schema = serializers.DictField(allow_null=True, read_only=True)
    thresholds = serializers.DictField(child=serializers.FloatField(), read_only=True)
    temperatures = serializers.DictField(
        child=serializers.FloatField(), read_only=True, help_text="by field; decisions on others are not calibrated"
    )
    run = serializers.PrimaryKeyRelatedField(source="adapter.run", read_only=True)  # type: ignore[var-annotated]
    step = serializers.IntegerField(source="adapter.step", read_only=True, help_text="of the run")
    base_model = serializers.SlugRelatedField(  # type: ignore[var-annotated]
        source="adapter.base_model", slug_field="slug", read_only=True
    )

    class Meta:
        model = DeploymentVersion
        fields = [
            "id", "number", "run", "step", "adapter", "base_model", "system_prompt", "response_schema", "thresholds",
            "temperatures", "max_tokens", "note", "created_at", "first_live_at",
        ]  # fmt: skip


class DeploymentSerializer(serializers.ModelSerializer[Deployment]):
    """A name under which the team calls a model."""

    state = serializers.SerializerMethodField(
        help_text="ready: it answers; pending: being loaded; asleep: the next request wakes it"
    )
    error = serializers.SerializerMethodField(help_text="why it cannot be loaded, or empty")
    live_version = DeploymentVersionSerializer(read_only=True, allow_null=True)
    next_version = DeploymentVersionSerializer(
        read_only=True, allow_null=True, help_text="goes live when it is loaded; until then live_version answers"
    )

    canary_version = DeploymentVersionSerializer(
        read_only=True, allow_null=True, help_text="answers `canary_share` per cent of the requests to the plain name"
    )
    canary_share = serializers.IntegerField(read_only=True, allow_null=True)

    class Meta:
        model = Deployment
        fields = [
            "id",
            "name",
            "state",
            "error",
            "is_running",
            "created_at",
            "sleep_after_minutes",
            "live_version",
            "next_version",
            "canary_version",
            "canary_share",
        ]

    @extend_schema_field({"type": "string", "enum": [state.value for state in State]})
    def get_state(self, deployment: Deployment) -> str:
        return self._standing(deployment).state.value

    @extend_schema_field(str)
    def get_error(self, deployment: Deployment) -> str:
        return self._standing(deployment).error

    def _standing(self, deployment: Deployment) -> Standing:
        """Return how it stands: from the context, where a list found out for all at once, or from the database."""
        known: dict[Deployment, Standing] = self.context.get("standings", {})
        return known[deployment] if deployment in known else standing_of(deployment)


class DeploymentDetailSerializer(DeploymentSerializer):
    """A deployment with all its versions, the newest first."""

    versions = DeploymentVersionSerializer(many=True, read_only=True)

    class Meta(DeploymentSerializer.Meta):
        fields = [*DeploymentSerializer.Meta.fields, "versions"]


class DeploySerializer(TeamSerializer):
    """Which run to deploy under which name; a name that exists gets a new version."""

    run: Any = serializers.PrimaryKeyRelatedField(queryset=Run.unscoped.all())
    name = serializers.SlugField(max_length=60)
    step = serializers.IntegerField(
        min_value=1, allow_null=True, default=None, help_text="a checkpoint that the run has kept; left out: its result"
    )
    system_prompt = serializers.CharField(
        required=False,
        allow_null=True,
        allow_blank=True,
        trim_whitespace=False,
        max_length=MAX_SYSTEM_PROMPT,
        default=None,
        help_text="left out: the one that all training rows had",
    )
    bind_to_schema = serializers.BooleanField(default=False, help_text="hold answers to the schema of the dataset")
    thresholds = serializers.DictField(
        child=serializers.FloatField(min_value=0, max_value=1), default=dict, help_text="least confidence by field"
    )
    max_tokens = serializers.IntegerField(
        min_value=1, max_value=MAX_ANSWER_TOKENS, allow_null=True, default=None, help_text="most tokens of an answer"
    )
    note = serializers.CharField(max_length=MAX_REASON, allow_blank=True, default="", help_text="why it is made")


class PromoteSerializer(serializers.Serializer):  # type: ignore[type-arg]
    """Which version shall answer; an earlier number rolls back."""

    version = serializers.IntegerField(min_value=1, help_text="number of the version")
    reason = serializers.CharField(
        max_length=MAX_REASON, allow_blank=True, default="", help_text="why; for the history"
    )
    override = serializers.BooleanField(
        default=False, help_text="although the team's rules hold it back; for admins, with a reason"
    )


class SetCanarySerializer(serializers.Serializer):  # type: ignore[type-arg]
    """Which version gets a share of the requests to the plain name."""

    version = serializers.IntegerField(min_value=1, help_text="number of the version")
    share = serializers.IntegerField(min_value=LEAST_SHARE, max_value=MOST_SHARE, help_text="in per cent")
    reason = serializers.CharField(
        max_length=MAX_REASON, allow_blank=True, default="", help_text="why; for the history, and needed to override"
    )
    override = serializers.BooleanField(
        default=False, help_text="let it answer although the gate holds it back; for admins, with a reason"
    )


class CanarySideSerializer(serializers.Serializer):  # type: ignore[type-arg]
    """What a version did with requests to the plain name since the canary began."""

    version = serializers.IntegerField(source="version.number")
    share = serializers.IntegerField(help_text="in per cent of the requests")
    requests = serializers.IntegerField()
    errors = serializers.IntegerField()  # type: ignore[assignment]
    replaced = serializers.IntegerField(
        help_text="of a canary: the live version was asked instead, which counts here only"
    )
    median_s = serializers.FloatField(allow_null=True)
    slow_s = serializers.FloatField(allow_null=True, help_text="19 of 20 answers took less")
    corrections = serializers.IntegerField(help_text="answers that somebody has corrected")


class CanarySerializer(serializers.Serializer):  # type: ignore[type-arg]
    """The canary of a deployment beside its live version; nulls and no sides without one."""

    version = serializers.IntegerField(allow_null=True, help_text="number of the version")
    share = serializers.IntegerField(allow_null=True, help_text="in per cent of the requests to the plain name")
    since = serializers.DateTimeField(allow_null=True)
    state = serializers.ChoiceField(
        choices=[state.value for state in State],
        allow_null=True,
        help_text="whether its adapter is loaded; unless it is ready the live version answers",
    )
    error = serializers.CharField(allow_blank=True, help_text="why it cannot be loaded, or empty")
    sides = CanarySideSerializer(many=True, help_text="the live version, then the canary")


class SleepSerializer(serializers.Serializer):  # type: ignore[type-arg]
    """When a deployment sleeps."""

    sleep_after_minutes = serializers.IntegerField(
        min_value=1,
        max_value=LONGEST_SLEEP_MINUTES,
        allow_null=True,
        help_text="without a request, then its adapter is unloaded until the next one; null: never",
    )

"""What the API says about deployments: allow-lists, field by field. Engines, nodes and adapter names stay inside."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from deployments.models import Deployment, DeploymentVersion
from deployments.services import MAX_SYSTEM_PROMPT
from deployments.states import Standing, State, standing_of
from experiments.models import Run
from experiments.serializers import TeamSerializer


class DeploymentVersionSerializer(serializers.ModelSerializer[DeploymentVersion]):
    """One adapter with its settings behind a deployment."""

    run = serializers.PrimaryKeyRelatedField(source="adapter.run", read_only=True)  # type: ignore[var-annotated]
    base_model = serializers.SlugRelatedField(  # type: ignore[var-annotated]
        source="adapter.base_model", slug_field="slug", read_only=True
    )

    class Meta:
        model = DeploymentVersion
        fields = ["id", "number", "run", "adapter", "base_model", "system_prompt", "created_at"]


class DeploymentSerializer(serializers.ModelSerializer[Deployment]):
    """A name under which the team calls a model."""

    state = serializers.SerializerMethodField(help_text="ready: it answers; pending: its adapter is being loaded")
    error = serializers.SerializerMethodField(help_text="why it cannot be loaded, or empty")
    live_version = DeploymentVersionSerializer(read_only=True, allow_null=True)
    next_version = DeploymentVersionSerializer(
        read_only=True, allow_null=True, help_text="goes live when it is loaded; until then live_version answers"
    )

    class Meta:
        model = Deployment
        fields = ["id", "name", "state", "error", "is_running", "created_at", "live_version", "next_version"]

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
    system_prompt = serializers.CharField(
        required=False,
        allow_null=True,
        allow_blank=True,
        trim_whitespace=False,
        max_length=MAX_SYSTEM_PROMPT,
        default=None,
        help_text="left out: the one that all training rows had",
    )


class PromoteSerializer(serializers.Serializer):  # type: ignore[type-arg]
    """Which version shall answer; an earlier number rolls back."""

    version = serializers.IntegerField(min_value=1, help_text="number of the version")

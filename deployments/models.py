"""Deployments: the names under which teams call their models, and where those models are loaded."""

from __future__ import annotations

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from deployments.openai_api.models import ApiFile, BatchJob, FineTuningJob, KeptAnswer
from experiments.models import Adapter
from portal.models import ApiToken, BaseModel, Node, User
from portal.scoping import TeamOwned

__all__ = [
    "ApiFile",
    "BatchJob",
    "Deployment",
    "DeploymentVersion",
    "Engine",
    "FineTuningJob",
    "InferenceRecord",
    "KeptAnswer",
    "Placement",
]


class Engine(models.Model):
    """An inference engine that a node agent runs for one base model."""

    class Status(models.TextChoices):
        STARTING = "starting", _("Starting")
        READY = "ready", _("Ready")
        FAILED = "failed", _("Failed")

    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="engines")
    base_model = models.ForeignKey(BaseModel, on_delete=models.CASCADE, related_name="engines")
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.STARTING)
    url = models.CharField(max_length=200, blank=True, help_text="http://address:port, set when it is ready")
    access_key = models.CharField(max_length=64, help_text="bearer that the engine demands; made anew at each start")
    error = models.TextField(blank=True)
    started_at = models.DateTimeField(default=timezone.now)
    heartbeat_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["node", "base_model"], name="one_engine_per_node_and_base_model")
        ]

    def __str__(self) -> str:
        return f"{self.base_model} on {self.node}"


class Placement(TeamOwned):
    """The wish that an adapter be loaded on a node, and whether it is: the portal wishes, the node's agent fulfils."""

    class Status(models.TextChoices):
        PENDING = "pending", _("Loading")
        READY = "ready", _("Ready")
        FAILED = "failed", _("Failed")

    adapter = models.ForeignKey(Adapter, on_delete=models.CASCADE, related_name="placements")
    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="placements")
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.PENDING)
    error = models.TextField(blank=True)
    wanted_until = models.DateTimeField(null=True, help_text="kept until then even if no deployment needs it")
    ready_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta(TeamOwned.Meta):
        constraints = [models.UniqueConstraint(fields=["adapter", "node"], name="one_placement_per_adapter_and_node")]

    def __str__(self) -> str:
        return f"{self.adapter} on {self.node}"


class Deployment(TeamOwned):
    """A name under which the team calls a model; which one it is can change, the name stays."""

    name = models.SlugField(_("name"), max_length=60)
    is_running = models.BooleanField(default=True)
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+", null=True)
    created_at = models.DateTimeField(auto_now_add=True)
    live_version = models.ForeignKey(
        "DeploymentVersion", on_delete=models.RESTRICT, null=True, related_name="live_in", editable=False
    )
    next_version = models.ForeignKey(
        "DeploymentVersion",
        on_delete=models.RESTRICT,
        null=True,
        related_name="next_in",
        editable=False,
        help_text="goes live when its adapter is loaded; until then the live version serves",
    )

    class Meta(TeamOwned.Meta):
        ordering = ["name"]
        constraints = [models.UniqueConstraint(fields=["team", "name"], name="deployment_name_unique_in_team")]

    def __str__(self) -> str:
        return self.name


class DeploymentVersion(TeamOwned):
    """One adapter with its settings behind a deployment; immutable."""

    deployment = models.ForeignKey(Deployment, on_delete=models.CASCADE, related_name="versions")
    number = models.PositiveIntegerField()
    adapter = models.ForeignKey(Adapter, on_delete=models.RESTRICT, related_name="deployment_versions")
    system_prompt = models.TextField(blank=True, help_text="put before requests that bring none of their own")
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+", null=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta(TeamOwned.Meta):
        ordering = ["-number"]
        constraints = [
            models.UniqueConstraint(fields=["deployment", "number"], name="version_number_unique_in_deployment")
        ]

    def __str__(self) -> str:
        return f"{self.deployment} v{self.number}"


class InferenceRecord(TeamOwned):
    """One answered (or failed) request: counts and times, never text."""

    id = models.BigAutoField(primary_key=True)  # type: ignore[assignment]
    # Without an index of its own: that by version and time begins with it.
    version = models.ForeignKey(
        DeploymentVersion, on_delete=models.SET_NULL, null=True, related_name="requests", db_index=False
    )
    model = models.CharField(max_length=120)
    token = models.ForeignKey(ApiToken, on_delete=models.SET_NULL, null=True, related_name="+")
    request_id = models.CharField(max_length=64)
    at = models.DateTimeField(default=timezone.now)
    streamed = models.BooleanField(default=False)
    status = models.PositiveSmallIntegerField()
    prompt_tokens = models.PositiveIntegerField(default=0)
    completion_tokens = models.PositiveIntegerField(default=0)
    first_token_ms = models.PositiveIntegerField(null=True)
    duration_ms = models.PositiveIntegerField()

    class Meta(TeamOwned.Meta):
        ordering = ["-at"]
        indexes = [
            models.Index(fields=["team", "-at"], name="inference_by_team_and_time"),
            models.Index(fields=["version", "-at"], name="inference_by_version_and_time"),
        ]

    def __str__(self) -> str:
        return self.request_id

"""Deployments: the names under which teams call their models, and where those models are loaded."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from datasets_app.models import DatasetVersion
from deployments.openai_api.models import ApiFile, BatchJob, FineTuningJob, KeptAnswer
from deployments.webhooks.models import WebhookDelivery, WebhookEndpoint
from experiments.models import Adapter
from portal.audit_actions import action_label
from portal.models import ApiToken, BaseModel, Node, User
from portal.ordered_json import OrderedJSONField
from portal.scoping import TeamOwned

__all__ = [
    "ApiFile",
    "BatchJob",
    "Deployment",
    "DeploymentEvent",
    "DeploymentVersion",
    "Engine",
    "FineTuningJob",
    "InferenceRecord",
    "KeptAnswer",
    "LedgerJournal",
    "LoggedText",
    "ModelExport",
    "Placement",
    "PromotionPolicy",
    "WebhookDelivery",
    "WebhookEndpoint",
    "today",
]


def today() -> date:
    """Return the day by which deployments retire, that of UTC."""
    return timezone.now().date()


class Engine(models.Model):
    """An inference engine that a node agent runs for one base model."""

    class Status(models.TextChoices):
        STARTING = "starting", _("Starting")
        READY = "ready", _("Ready")
        FAILED = "failed", _("Failed")

    class SelfCheck(models.TextChoices):
        PASSED = "passed", _("Answers as transformers does")
        UNCHECKED = "unchecked", _("Not compared with transformers: there was no reference")
        FAILED = "failed", _("Served by transformers itself, slowly: the fast decoder answered differently")
        NONE = "none", _("No comparison was asked for")

    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="engines")
    base_model = models.ForeignKey(BaseModel, on_delete=models.CASCADE, related_name="engines")
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.STARTING)
    url = models.CharField(max_length=200, blank=True, help_text="http://address:port, set when it is ready")
    access_key = models.CharField(max_length=64, help_text="bearer that the engine demands; made anew at each start")
    # Agents of before do not name these.
    scores_values = models.BooleanField(
        db_default=True, help_text="whether it has a route that says how likely values are"
    )
    weights = models.CharField(max_length=10, db_default="fp32", help_text="in which the base model is computed")
    self_check = models.CharField(
        max_length=12,
        choices=SelfCheck.choices,
        blank=True,
        db_default="",
        help_text="what the engine says of its own answers",
    )
    error = models.TextField(blank=True)
    started_at = models.DateTimeField(default=timezone.now)
    heartbeat_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["node", "base_model"], name="one_engine_per_node_and_base_model")
        ]

    def __str__(self) -> str:
        return f"{self.base_model} on {self.node}"

    @property
    def doubt(self) -> str:
        """What a platform admin should know of its answers, empty if there is nothing."""
        doubtful = self.self_check in (self.SelfCheck.UNCHECKED, self.SelfCheck.FAILED)
        return self.get_self_check_display() if doubtful else ""


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
    canary_version = models.ForeignKey(
        "DeploymentVersion",
        on_delete=models.RESTRICT,
        null=True,
        related_name="canary_in",
        editable=False,
        help_text="answers a share of the requests to the plain name beside the live version",
    )
    canary_share = models.PositiveSmallIntegerField(null=True, help_text="in per cent of the requests")
    canary_since = models.DateTimeField(null=True, help_text="since when it answers")
    sleep_after_minutes = models.PositiveIntegerField(null=True, help_text="without a request; empty: never")
    awake_until = models.DateTimeField(null=True, help_text="renewed by requests; counts where it may sleep at all")
    retires_on = models.DateField(
        null=True, help_text="the last day, in UTC, on which it answers; empty: no end is set"
    )

    logs_text = models.BooleanField(default=False, help_text="whether what is asked and answered is kept")
    log_days = models.PositiveSmallIntegerField(default=30, help_text="for how long")

    class Meta(TeamOwned.Meta):
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint(fields=["team", "name"], name="deployment_name_unique_in_team"),
            models.CheckConstraint(
                condition=Q(canary_version=None, canary_share=None, canary_since=None)
                | Q(canary_version__isnull=False, canary_share__range=(1, 50), canary_since__isnull=False),
                name="canary_with_share_and_time_or_none",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def may_rest(self) -> bool:
        """Whether nobody has asked it for so long that its adapter need not be loaded."""
        rests = self.sleep_after_minutes is not None
        return rests and (self.awake_until is None or self.awake_until <= timezone.now())

    @property
    def is_retired(self) -> bool:
        """Whether its last day is over."""
        return self.retires_on is not None and self.retires_on < today()


class DeploymentVersion(TeamOwned):
    """One adapter with its settings behind a deployment; immutable."""

    deployment = models.ForeignKey(Deployment, on_delete=models.CASCADE, related_name="versions")
    number = models.PositiveIntegerField()
    adapter = models.ForeignKey(Adapter, on_delete=models.RESTRICT, related_name="deployment_versions")
    system_prompt = models.TextField(blank=True, help_text="put before requests that bring none of their own")
    response_schema = OrderedJSONField(null=True, help_text="JSON Schema of answers to requests that bring none")
    decision_schema = OrderedJSONField(null=True, help_text="JSON Schema whose closed fields decisions score")
    labels = models.JSONField(default=list, help_text="all answers of a classification, which decisions score")
    temperatures = models.JSONField(
        default=dict, help_text="by field, as the held-out report of its run has them; probabilities are taken at them"
    )
    fitted_under = models.JSONField(null=True, help_text="weights and system prompts for which temperatures hold")
    thresholds = models.JSONField(default=dict, help_text="least confidence by field; below it a decision abstains")
    max_tokens = models.PositiveIntegerField(null=True, help_text="most tokens that an answer may have")
    note = models.CharField(max_length=300, blank=True, help_text="why it was made")
    first_live_at = models.DateTimeField(null=True, help_text="when it first answered under the name")
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+", null=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta(TeamOwned.Meta):
        ordering = ["-number"]
        constraints = [
            models.UniqueConstraint(fields=["deployment", "number"], name="version_number_unique_in_deployment")
        ]

    def __str__(self) -> str:
        return f"{self.deployment} v{self.number}"

    @property
    def pinned_name(self) -> str:
        """The name by which this very version is called, whichever answers under the deployment's name."""
        return f"{self.deployment.name}@v{self.number}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save a new version; of one that exists only the time may be noted when it first answered."""
        if not self._state.adding and set(kwargs.get("update_fields") or {"all"}) != {"first_live_at"}:
            raise RuntimeError("a deployment version never changes: make a new one")
        super().save(*args, **kwargs)


class DeploymentEvent(TeamOwned):
    """What was done with a deployment, by whom and why; the page's history. The audit trail has it as well."""

    id = models.BigAutoField(primary_key=True)  # type: ignore[assignment]
    deployment = models.ForeignKey(Deployment, on_delete=models.CASCADE, related_name="events")
    at = models.DateTimeField(default=timezone.now)
    action = models.CharField(max_length=60, help_text="as in the audit trail")
    version = models.PositiveIntegerField(null=True)
    before = models.PositiveIntegerField(null=True, help_text="the version that answered until then")
    person = models.ForeignKey(User, on_delete=models.SET_NULL, related_name="+", null=True)
    actor = models.CharField(max_length=254, help_text="who, for when there is no person")
    reason = models.CharField(max_length=300, blank=True)

    class Meta(TeamOwned.Meta):
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.deployment} {self.action}"

    @property
    def words(self) -> str:
        """What was done, as people read it."""
        return str(action_label(self.action))


class PromotionPolicy(TeamOwned):
    """What a version has to reach before it may answer; a team without a row has the defaults. Empty: not asked."""

    is_on = models.BooleanField(default=True)
    min_macro_f1 = models.FloatField(null=True)
    max_f1_drop = models.FloatField(null=True, default=0.02)
    max_recall_drop = models.FloatField(null=True, default=0.1)
    max_invalid_json = models.FloatField(null=True, default=0.0)
    needs_same_rows = models.BooleanField(default=True)
    max_median_ms = models.PositiveIntegerField(null=True)
    max_median_rise = models.FloatField(null=True)

    class Meta(TeamOwned.Meta):
        constraints = [models.UniqueConstraint(fields=["team"], name="one_promotion_policy_per_team")]

    def __str__(self) -> str:
        return f"promotion policy of {self.team}"


class InferenceRecord(TeamOwned):
    """One answered (or failed) request: counts and times, never text.

    A request that the canary could not answer has two of them: what became of it there, which is *replaced*, and what
    the live version answered *instead*. Both have the caller's request id, and the caller asked once.
    """

    class Attempt(models.TextChoices):
        ONLY = "", _("The only one")
        REPLACED = "replaced", _("The canary's, which the live version replaced")
        INSTEAD = "instead", _("The live version's, instead of the canary")

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
    attempt = models.CharField(max_length=8, choices=Attempt.choices, blank=True, db_default="", default="")
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


class RequestTotals(models.Model):
    """One row: how many requests there ever were, and how long they took; see `request_totals`."""

    counted = models.BigIntegerField(default=0, help_text="id of the last InferenceRecord that is in these sums")
    seen = models.BigIntegerField(default=0, help_text="id of the newest one at that time")
    seen_at = models.DateTimeField(default=timezone.now)
    statuses = models.JSONField(default=dict, help_text="requests by kind of HTTP status, as 2xx")
    prompt_tokens = models.BigIntegerField(default=0)
    completion_tokens = models.BigIntegerField(default=0)
    durations = models.JSONField(default=list, help_text="requests by the bounds of request_totals")
    duration_ms = models.BigIntegerField(default=0)
    first_tokens = models.JSONField(default=list)
    first_token_ms = models.BigIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.requests} requests"

    @property
    def requests(self) -> int:
        """How many there were."""
        return sum(self.statuses.values())


class LedgerJournal(models.Model):
    """How much of a process's journal (see `journal`) is in the ledger; changed together with the records."""

    name = models.CharField(max_length=60, primary_key=True)
    written = models.BigIntegerField(help_text="bytes from the beginning")
    at = models.DateTimeField(auto_now=True)

    def __str__(self) -> str:
        return self.name


class LoggedText(TeamOwned):
    """What was asked and answered in one request, for teams that want it kept, and what should have been answered."""

    record = models.OneToOneField(InferenceRecord, on_delete=models.CASCADE, related_name="text")
    deployment = models.ForeignKey(Deployment, on_delete=models.CASCADE, related_name="texts")
    at = models.DateTimeField(default=timezone.now)
    kept_until = models.DateTimeField(db_index=True)
    messages = models.JSONField(help_text="as the model got them, with the version's system prompt")
    answer = models.TextField(blank=True)
    correction = models.TextField(blank=True, help_text="what a person says the answer should have been")
    corrected_by = models.ForeignKey(User, on_delete=models.SET_NULL, related_name="+", null=True)
    corrected_at = models.DateTimeField(null=True)
    taken_into = models.ForeignKey(
        DatasetVersion, on_delete=models.SET_NULL, related_name="+", null=True,
        help_text="the dataset version that has the correction as a row",
    )  # fmt: skip

    class Meta(TeamOwned.Meta):
        ordering = ["-record_id"]

    def __str__(self) -> str:
        return f"text of request {self.record_id}"


class ModelExport(TeamOwned):
    """A model on its way out: one file to be downloaded for some days, or a repository on a hub.

    QUEUED → RUNNING → READY or FAILED. The file is storage of the team until it expires.
    """

    class Kind(models.TextChoices):
        MERGED = "merged", _("Merged model (safetensors)")
        GGUF = "gguf", _("GGUF for llama.cpp and Ollama")
        HUB = "hub", _("Push to the Hugging Face hub")

    class Weights(models.TextChoices):
        F16 = "f16", _("16 bits: half the size, the usual choice")
        Q8 = "q8_0", _("8 bits: a quarter of the size, nearly the same answers")
        F32 = "f32", _("32 bits: nothing is rounded")

    class Status(models.TextChoices):
        QUEUED = "queued", _("Queued")
        RUNNING = "running", _("Running")
        READY = "ready", _("Ready")
        FAILED = "failed", _("Failed")

    OPEN = (Status.QUEUED, Status.RUNNING)

    adapter = models.ForeignKey(Adapter, on_delete=models.CASCADE, related_name="exports")
    kind = models.CharField(max_length=8, choices=Kind.choices)
    weights = models.CharField(max_length=8, choices=Weights.choices, blank=True, help_text="of a GGUF file")
    repository = models.CharField(max_length=120, blank=True, help_text="owner/name on the hub")
    is_private = models.BooleanField(default=True)
    whole_model = models.BooleanField(default=False, help_text="push the merged model instead of the adapter")
    secret_name = models.CharField(max_length=60, blank=True, help_text="the team's secret with the hub's credential")
    status = models.CharField(max_length=8, choices=Status.choices, default=Status.QUEUED)
    progress = models.PositiveSmallIntegerField(default=0, help_text="per cent of the work that is done")
    error = models.TextField(blank=True, help_text="a sentence for people")
    file_name = models.CharField(max_length=200, blank=True)
    url = models.CharField(max_length=300, blank=True, help_text="where it is on the hub")
    size_bytes = models.PositiveBigIntegerField(default=0, help_text="counted as storage; estimated until it is ready")
    claim = models.UUIDField(null=True)
    heartbeat_at = models.DateTimeField(null=True)
    attempts = models.PositiveSmallIntegerField(default=0)
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+", null=True)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True)

    class Meta(TeamOwned.Meta):
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} of {self.adapter}"

    @property
    def folder(self) -> Path:
        """Where its file lies and is made."""
        return self.team.folder / "exports" / str(self.pk)

    @property
    def is_open(self) -> bool:
        """Whether it is not over yet."""
        return self.status in self.OPEN

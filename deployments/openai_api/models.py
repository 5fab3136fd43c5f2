"""What the surface under /v1 keeps: uploaded files, fine-tuning jobs, batches, and answers that may be asked for again.

Everything else that an OpenAI client sees (runs, checkpoints, models) are the portal's own rows in other words.
"""

from __future__ import annotations

from pathlib import Path

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from datasets_app.models import DatasetVersion
from experiments.models import Run
from portal.models import ApiToken, BaseModel, User
from portal.scoping import TeamOwned


class ApiFile(TeamOwned):
    """A file that came or goes under /v1. Its name is only ever shown, never used as a path."""

    class Purpose(models.TextChoices):
        FINE_TUNE = "fine-tune", _("Training rows")
        FINE_TUNE_RESULTS = "fine-tune-results", _("Figures of a training")
        BATCH = "batch", _("Requests of a batch")
        BATCH_OUTPUT = "batch_output", _("Answers of a batch")

    class Status(models.TextChoices):
        UPLOADED = "uploaded", _("Uploaded")
        PROCESSED = "processed", _("Checked")
        ERROR = "error", _("Cannot be used")

    purpose = models.CharField(max_length=20, choices=Purpose.choices)
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.UPLOADED)
    status_details = models.CharField(max_length=300, blank=True)
    name = models.CharField(max_length=255)
    size_bytes = models.PositiveBigIntegerField()
    sha256 = models.CharField(max_length=64)
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+", null=True)
    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField(null=True)

    class Meta(TeamOwned.Meta):
        ordering = ["-created_at", "-id"]
        indexes = [models.Index(fields=["team", "-created_at", "-id"], name="api_file_by_team_and_age")]

    def __str__(self) -> str:
        return self.name

    @property
    def public_id(self) -> str:
        """The id that clients know."""
        return f"file-{self.pk.hex}"

    @property
    def path(self) -> Path:
        """Where the bytes lie, under a name of our own."""
        return self.team.folder / "files" / f"{self.pk}.bin"


class FineTuningJob(TeamOwned):
    """An order to fine-tune, as OpenAI's clients give it. Its run is the truth as soon as there is one.

    VALIDATING (its files become a dataset version) → SUBMITTED (there is a run), or FAILED, or CANCELLED before that.
    """

    class State(models.TextChoices):
        VALIDATING = "validating", _("Checking the files")
        SUBMITTED = "submitted", _("Submitted")
        FAILED = "failed", _("Failed")
        CANCELLED = "cancelled", _("Cancelled")

    state = models.CharField(max_length=12, choices=State.choices, default=State.VALIDATING)
    is_paused = models.BooleanField(default=False, help_text="asked to pause before there was a run")
    base_model = models.ForeignKey(BaseModel, on_delete=models.PROTECT, related_name="+")
    continue_from = models.ForeignKey(Run, on_delete=models.SET_NULL, related_name="+", null=True)
    asked_model = models.CharField(max_length=200, help_text="as the client named it")
    # The files may be deleted while their rows live on in the dataset version.
    training_file = models.ForeignKey(ApiFile, on_delete=models.SET_NULL, related_name="+", null=True)
    validation_file = models.ForeignKey(ApiFile, on_delete=models.SET_NULL, related_name="+", null=True)
    training_file_id_shown = models.CharField(max_length=40)
    validation_file_id_shown = models.CharField(max_length=40, blank=True)
    files_hash = models.CharField(max_length=64, help_text="of what both files hold and how they are read")
    suffix = models.CharField(max_length=64, blank=True)
    method = models.CharField(max_length=12, default="supervised")
    asked = models.JSONField(default=dict, help_text="hyperparameters as the client named them")
    recipe = models.CharField(max_length=20, blank=True)
    seed = models.PositiveIntegerField()
    metadata = models.JSONField(default=dict)
    model_name = models.CharField(max_length=200, help_text="ft:<base>:<team>:<suffix>:<id>")
    is_model_deleted = models.BooleanField(default=False)
    dataset_version = models.ForeignKey(DatasetVersion, on_delete=models.SET_NULL, related_name="+", null=True)
    run = models.OneToOneField(Run, on_delete=models.SET_NULL, related_name="fine_tuning_job", null=True)
    result_file = models.ForeignKey(ApiFile, on_delete=models.SET_NULL, related_name="+", null=True)
    error_code = models.CharField(max_length=40, blank=True)
    error_message = models.TextField(blank=True)
    error_param = models.CharField(max_length=60, blank=True)
    claimed_at = models.DateTimeField(null=True, help_text="when a worker began to look at its files")
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+", null=True)
    created_at = models.DateTimeField(default=timezone.now)
    validated_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True, help_text="only if it ended before there was a run")

    class Meta(TeamOwned.Meta):
        ordering = ["-created_at", "-id"]
        constraints = [models.UniqueConstraint(fields=["team", "model_name"], name="model_name_unique_in_team")]
        indexes = [models.Index(fields=["team", "-created_at", "-id"], name="job_by_team_and_age")]

    def __str__(self) -> str:
        return self.public_id

    @property
    def public_id(self) -> str:
        """The id that clients know."""
        return f"ftjob-{self.pk.hex}"

    @property
    def deployment_name(self) -> str:
        """The name under which its model is deployed: names of deployments hold no colons."""
        middle = f"{self.suffix[:40]}-" if self.suffix else ""
        return f"ft-{middle}{self.pk.hex[:8]}"


class BatchJob(TeamOwned):
    """Many requests in one file, answered when there is room, with a file of answers at the end."""

    class Status(models.TextChoices):
        VALIDATING = "validating", _("Checking the file")
        IN_PROGRESS = "in_progress", _("At work")
        FINALIZING = "finalizing", _("Writing the files")
        COMPLETED = "completed", _("Completed")
        FAILED = "failed", _("Failed")
        CANCELLING = "cancelling", _("Being cancelled")
        CANCELLED = "cancelled", _("Cancelled")
        EXPIRED = "expired", _("Out of time")

    OPEN = (Status.VALIDATING, Status.IN_PROGRESS, Status.FINALIZING, Status.CANCELLING)

    status = models.CharField(max_length=12, choices=Status.choices, default=Status.VALIDATING)
    endpoint = models.CharField(max_length=40)
    completion_window = models.CharField(max_length=10, default="24h")
    input_file = models.ForeignKey(ApiFile, on_delete=models.SET_NULL, related_name="+", null=True)
    input_file_id_shown = models.CharField(max_length=40)
    output_file = models.ForeignKey(ApiFile, on_delete=models.SET_NULL, related_name="+", null=True)
    error_file = models.ForeignKey(ApiFile, on_delete=models.SET_NULL, related_name="+", null=True)
    metadata = models.JSONField(default=dict)
    errors = models.JSONField(default=list, help_text="why the input file cannot be used: code, line, message, param")
    total = models.PositiveIntegerField(default=0)
    completed = models.PositiveIntegerField(default=0)
    failed = models.PositiveIntegerField(default=0)
    output_bytes = models.PositiveBigIntegerField(default=0, help_text="of the answers counted so far")
    error_bytes = models.PositiveBigIntegerField(default=0)
    token = models.ForeignKey(ApiToken, on_delete=models.SET_NULL, related_name="+", null=True)
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+", null=True)
    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True)
    finalizing_at = models.DateTimeField(null=True)
    cancelling_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    claim = models.UUIDField(null=True, help_text="of the worker at it; one with another claim must stop")
    heartbeat_at = models.DateTimeField(null=True)

    class Meta(TeamOwned.Meta):
        ordering = ["-created_at", "-id"]
        indexes = [models.Index(fields=["team", "-created_at", "-id"], name="batch_by_team_and_age")]

    def __str__(self) -> str:
        return self.public_id

    @property
    def public_id(self) -> str:
        """The id that clients know."""
        return f"batch_{self.pk.hex}"

    @property
    def folder(self) -> Path:
        """Where its answers are put together."""
        return self.team.folder / "batches" / str(self.pk)

    @property
    def is_open(self) -> bool:
        """Whether it may still change."""
        return self.status in self.OPEN


class KeptAnswer(TeamOwned):
    """The answer to a request that made something, for the same request when it comes again."""

    key_hash = models.CharField(max_length=64, help_text="of the token and its Idempotency-Key, or of chance")
    request_hash = models.CharField(max_length=64, help_text="of the token, the address and the body")
    status = models.PositiveSmallIntegerField()
    body = models.JSONField()
    created_at = models.DateTimeField(default=timezone.now)

    class Meta(TeamOwned.Meta):
        constraints = [models.UniqueConstraint(fields=["team", "key_hash"], name="one_answer_per_idempotency_key")]
        indexes = [models.Index(fields=["team", "request_hash", "-created_at"], name="kept_answer_by_request")]

    def __str__(self) -> str:
        return self.key_hash[:12]

"""Experiments, runs, what runs report, and the adapters they leave."""

from __future__ import annotations

import uuid
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.utils import timezone
from django.utils.text import slugify
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from datasets_app.models import DatasetVersion, Split
from experiments.storable import storable_number
from portal.models import BaseModel, Node, User
from portal.scoping import TeamOwned


class Experiment(TeamOwned):
    """A question, such as “does a higher rank help?”; its runs are the answers."""

    name = models.CharField(_("name"), max_length=120)
    notes = models.TextField(_("notes"), blank=True, max_length=4000)
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+", null=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta(TeamOwned.Meta):
        ordering = ["-created_at"]
        constraints = [models.UniqueConstraint(fields=["team", "name"], name="experiment_name_unique_in_team")]

    def __str__(self) -> str:
        return self.name


# Of an experiment: those of its runs that are no trials.
TRAININGS = models.Q(runs__kind="training")


class Sweep(TeamOwned):
    """Several runs of one experiment that differ in some hyperparameters, to find the best values."""

    class Method(models.TextChoices):
        GRID = "grid", _("All combinations")
        RANDOM = "random", _("Drawn by chance")

    class Rule(models.TextChoices):
        """Which runs are stopped before their end."""

        NONE = "none", _("No run is stopped early")
        MEDIAN = "median", _("Those worse than the median of the others")
        HALVING = "halving", _("The worse half, again and again")

    experiment = models.ForeignKey(Experiment, on_delete=models.CASCADE, related_name="sweeps")
    method = models.CharField(max_length=8, choices=Method.choices, default=Method.GRID)
    values = models.JSONField(help_text="the values tried, by hyperparameter")
    rule = models.CharField(max_length=8, choices=Rule.choices, default=Rule.MEDIAN)
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+", null=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta(TeamOwned.Meta):
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"{self.experiment}: {', '.join(self.values)}"


class Priority(models.IntegerChoices):
    """Which of a team's own waiting runs goes first; other teams never notice."""

    LOW = -1, _("Low")
    NORMAL = 0, _("Normal")
    HIGH = 1, _("High")


class Run(TeamOwned):
    """One training. Its row is the truth about it; messages and processes come and go.

    QUEUED → ASSIGNED (dispatch gave it a node, a slot and a lease) → RUNNING (its supervisor claimed it) → a terminal
    state. A lost lease leads back to QUEUED, up to `max_attempts` times.
    """

    class Status(models.TextChoices):
        QUEUED = "queued", _("Queued")
        ASSIGNED = "assigned", _("Starting")
        RUNNING = "running", _("Running")
        SUCCEEDED = "succeeded", _("Succeeded")
        FAILED = "failed", _("Failed")
        CANCELLED = "cancelled", _("Cancelled")

    class Kind(models.TextChoices):
        TRAINING = "training", _("Training")
        PREFLIGHT = "preflight", _("Trial")  # 20 steps, to tell time, memory and cost; leaves nothing
        EVALUATION = "evaluation", _("Evaluation")  # asks kept weights of an earlier run the validation rows

    ACTIVE: ClassVar = (Status.ASSIGNED, Status.RUNNING)
    TERMINAL: ClassVar = (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED)

    experiment = models.ForeignKey(Experiment, on_delete=models.CASCADE, related_name="runs")
    kind = models.CharField(max_length=12, choices=Kind.choices, default=Kind.TRAINING)
    sweep = models.ForeignKey(Sweep, on_delete=models.SET_NULL, null=True, related_name="runs")
    number = models.PositiveIntegerField(help_text="counted in the experiment, each kind by itself")
    dataset_version = models.ForeignKey(DatasetVersion, on_delete=models.RESTRICT, related_name="runs")
    base_model = models.ForeignKey(BaseModel, on_delete=models.PROTECT, related_name="runs")
    base_revision = models.CharField(max_length=64)
    recipe = models.CharField(max_length=20, blank=True)
    hyperparameters = models.JSONField()
    config_hash = models.CharField(max_length=64)
    deploy_as = models.SlugField(_("deploy when finished as"), max_length=60, blank=True)
    continue_from = models.ForeignKey(
        "self", on_delete=models.RESTRICT, null=True, blank=True, related_name="continuations",
        help_text="the run whose adapter is where this one starts; kept as long as this one is",
    )  # fmt: skip
    start_adapter = models.ForeignKey(
        "Adapter", on_delete=models.RESTRICT, null=True, blank=True, related_name="starts",
        help_text="of a training: the checkpoint of `continue_from` where it starts, null for that run's result; "
        "of an evaluation: what it measures",
    )  # fmt: skip
    gpus = models.PositiveSmallIntegerField(_("GPUs"), default=1, help_text="or slots, where nodes have no GPUs")
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+", null=True)

    status = models.CharField(max_length=12, choices=Status.choices, default=Status.QUEUED)
    phase = models.CharField(max_length=20, blank=True, help_text="what the running process is at")
    priority = models.SmallIntegerField(_("priority in the team"), choices=Priority.choices, default=Priority.NORMAL)
    queued_at = models.DateTimeField(default=timezone.now)
    turn_came_at = models.DateTimeField(
        null=True, help_text="since when a node is kept free for it: it was its turn, but there was no room for it"
    )
    started_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    attempt = models.PositiveSmallIntegerField(default=0)
    max_attempts = models.PositiveSmallIntegerField(default=5)

    node = models.ForeignKey(Node, on_delete=models.SET_NULL, null=True, related_name="runs")
    slot = models.PositiveSmallIntegerField(null=True)
    more_slots = ArrayField(
        models.PositiveSmallIntegerField(),
        default=list,
        blank=True,
        help_text="besides `slot`, of a run on several GPUs",
    )
    lease_token = models.UUIDField(null=True)
    lease_until = models.DateTimeField(null=True)
    cancel_requested_at = models.DateTimeField(null=True)
    is_held = models.BooleanField(default=False, help_text="paused: it waits until somebody lets it go on")

    step = models.PositiveIntegerField(default=0)
    total_steps = models.PositiveIntegerField(default=0)
    eta_s = models.FloatField(null=True)
    checkpoint_step = models.PositiveIntegerField(default=0)
    facts = models.JSONField(default=dict, help_text="what the trainer reported at its start and end")
    events_offset = models.PositiveBigIntegerField(
        default=0, help_text="bytes of the job folder's events.jsonl that are in the database already"
    )
    error_code = models.CharField(max_length=40, blank=True)
    error_message = models.TextField(blank=True)
    gpu_seconds = models.FloatField(default=0)

    class Meta(TeamOwned.Meta):
        ordering = ["-queued_at"]
        constraints = [
            models.UniqueConstraint(fields=["experiment", "kind", "number"], name="run_number_unique_in_experiment"),
            models.UniqueConstraint(
                fields=["node", "slot"],
                condition=models.Q(status__in=["assigned", "running"]),
                name="one_active_run_per_slot",
            ),
            models.CheckConstraint(
                condition=~models.Q(status__in=["assigned", "running"]) | models.Q(lease_token__isnull=False),
                name="active_run_has_a_lease",
            ),
        ]
        indexes = [
            models.Index(fields=["status", "queued_at"], name="run_by_status_and_age"),
            # The lists of a team, newest first, and of all teams, last ended first.
            models.Index(fields=["team", "-queued_at"], name="run_by_team_and_age"),
            models.Index(fields=["-ended_at", "-id"], name="run_by_end"),
        ]

    def __str__(self) -> str:
        return f"{self.experiment} #{self.number}" if self.is_training else _side_name(self)

    @property
    def shown_status(self) -> str:
        """Its state in the word that pages show: who is paused does not just wait for a slot."""
        return "paused" if self.is_held and self.status == self.Status.QUEUED else self.status

    @property
    def folder(self) -> Path:
        """The job folder that supervisor, trainer and evaluator share."""
        return self.team.folder / "runs" / str(self.pk)

    @property
    def is_training(self) -> bool:
        """Whether it is there for the weights that it leaves."""
        return self.kind == self.Kind.TRAINING

    @property
    def is_evaluation(self) -> bool:
        """Whether it only measures weights that an earlier run has kept."""
        return self.kind == self.Kind.EVALUATION

    @property
    def is_preflight(self) -> bool:
        """Whether it only tries a few steps."""
        return self.kind == self.Kind.PREFLIGHT

    @property
    def is_active(self) -> bool:
        """Whether it holds a slot."""
        return self.status in self.ACTIVE

    @property
    def is_terminal(self) -> bool:
        """Whether it will never change again."""
        return self.status in self.TERMINAL

    @property
    def duration(self) -> timedelta | None:
        """How long it has been at work, if it ever started."""
        return (self.ended_at or timezone.now()) - self.started_at if self.started_at else None

    @property
    def proposed_name(self) -> str:
        """Under which its model may be called, made from the experiment's name; empty if no letter of that can be."""
        return self.deploy_as or slugify(self.experiment.name.replace("_", " "))[:50].strip("-")

    @property
    def trained_tokens(self) -> int | None:
        """How many tokens it has learned from, those of every epoch, as its trainer told at the end."""
        finished = self.facts.get("finished")
        told = storable_number(finished.get("trained_tokens")) if isinstance(finished, dict) else None
        return None if told is None else int(told)

    @property
    def exact_match(self) -> float | None:
        """Share of the held-out rows that the tuned model answers exactly, None without a quality report."""
        evaluation: Evaluation | None = getattr(self, "evaluation", None)
        return evaluation.report.get("tuned", {}).get("exact_match") if evaluation else None

    @property
    def progress(self) -> float:
        """Share of optimizer steps done, 0 to 1."""
        return self.step / self.total_steps if self.total_steps else 0.0


def _side_name(run: Run) -> str:
    names = {
        Run.Kind.PREFLIGHT: gettext("%(experiment)s, trial %(number)d"),
        Run.Kind.EVALUATION: gettext("%(experiment)s, evaluation %(number)d"),
    }
    return names[Run.Kind(run.kind)] % {"experiment": run.experiment, "number": run.number}


class MetricPoint(TeamOwned):
    """What the trainer measured at one step; written once for each step, however often it is reported."""

    id = models.BigAutoField(primary_key=True)  # type: ignore[assignment]
    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="metrics")
    step = models.PositiveIntegerField()
    values = models.JSONField(help_text="epoch, loss, learning_rate, grad_norm, tokens_per_s, validation_loss …")
    at = models.DateTimeField(default=timezone.now)

    class Meta(TeamOwned.Meta):
        ordering = ["step"]
        constraints = [models.UniqueConstraint(fields=["run", "step"], name="one_metric_point_per_step")]

    def __str__(self) -> str:
        return f"step {self.step}"


class FirstBatch(TeamOwned):
    """The first rows that a run learned from, as tokens: what was given, and what loss was taken on."""

    run = models.OneToOneField(Run, on_delete=models.CASCADE, related_name="first_batch")
    rows = models.JSONField(help_text="gpu_worker.trainer.first_batch: pieces [text, tokens], and counts")

    class Meta(TeamOwned.Meta):
        pass

    def __str__(self) -> str:
        return f"first batch of {self.run}"


class RunSample(TeamOwned):
    """A few validation rows as the adapter answered them at one step; a step that is told again replaces them."""

    id = models.BigAutoField(primary_key=True)  # type: ignore[assignment]
    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="samples")
    step = models.PositiveIntegerField()
    rows = models.JSONField(help_text="row, prompt, expected, answer, exact, score, and which fields are right")

    class Meta(TeamOwned.Meta):
        ordering = ["step"]
        constraints = [models.UniqueConstraint(fields=["run", "step"], name="one_sample_per_step")]

    def __str__(self) -> str:
        return f"answers at step {self.step}"


class RunEvent(TeamOwned):
    """A line of a run's log: phases, checkpoints, warnings, and what the trainer said. Never a row's text."""

    id = models.BigAutoField(primary_key=True)  # type: ignore[assignment]
    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="events")
    at = models.DateTimeField(default=timezone.now)
    level = models.CharField(max_length=8, default="info")
    kind = models.CharField(max_length=20, default="log")
    message = models.TextField()

    class Meta(TeamOwned.Meta):
        ordering = ["id"]
        # Where a log's lines begin and end is found in it, whatever stands in them.
        indexes = [models.Index(fields=["run", "id"], include=["team"], name="run_events_in_order")]

    def __str__(self) -> str:
        return self.message


class Adapter(TeamOwned):
    """LoRA weights for one base model, as a PEFT folder: a run's result, or a checkpoint of it that was deployed."""

    run = models.ForeignKey(Run, on_delete=models.RESTRICT, related_name="adapters")
    result_of = models.OneToOneField(
        Run,
        on_delete=models.RESTRICT,
        null=True,
        related_name="adapter",
        help_text="the run again, unless it is the adapter of an earlier step",
    )
    base_model = models.ForeignKey(BaseModel, on_delete=models.PROTECT, related_name="adapters")
    step = models.PositiveIntegerField()
    sha256 = models.CharField(max_length=64, help_text="of adapter_model.safetensors")
    size_bytes = models.PositiveBigIntegerField()
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta(TeamOwned.Meta):
        ordering = ["-created_at"]
        constraints = [models.UniqueConstraint(fields=["run", "step"], name="one_adapter_per_run_and_step")]

    def __str__(self) -> str:
        return str(self.run)

    @property
    def is_checkpoint(self) -> bool:
        """Whether it is an earlier step than the run's result, which is what the run's evaluation is of."""
        return self.result_of_id is None

    @property
    def evaluation(self) -> Evaluation | None:
        """How it answered the held-out rows; a checkpoint was not asked."""
        return None if self.is_checkpoint else getattr(self.run, "evaluation", None)

    @property
    def folder(self) -> Path:
        """The PEFT folder: adapter_config.json and adapter_model.safetensors."""
        return self.team.folder / "adapters" / str(self.pk)

    @property
    def engine_name(self) -> str:
        """The name under which engines know it; never used twice, since prefix caches are keyed by it."""
        return f"adapter-{uuid.UUID(str(self.pk)).hex}"


class Evaluation(TeamOwned):
    """How the tuned and the untuned model answered the held-out rows of one run."""

    run = models.OneToOneField(Run, on_delete=models.CASCADE, related_name="evaluation")
    split = models.CharField(max_length=12, choices=Split.choices)
    rows = models.PositiveIntegerField()
    report = models.JSONField(help_text="experiments.scoring.QualityReport.to_dict()")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta(TeamOwned.Meta):
        pass

    def __str__(self) -> str:
        return f"{self.run} on {self.rows} rows"


class EvaluatedRow(TeamOwned):
    """One held-out row with the answers of both models, for the worst, random and best lists."""

    id = models.BigAutoField(primary_key=True)  # type: ignore[assignment]
    evaluation = models.ForeignKey(Evaluation, on_delete=models.CASCADE, related_name="answers")
    row = models.PositiveIntegerField(help_text="line in the source file")
    prompt = models.TextField()
    expected = models.TextField()
    untuned = models.TextField()
    tuned = models.TextField()
    others = models.JSONField(default=dict, help_text="answers of simple baselines and of other ways to ask, by name")
    confidence = models.JSONField(default=dict, help_text="of the scored answer, by closed field, temperature applied")
    untuned_score = models.FloatField()
    tuned_score = models.FloatField()
    is_exact = models.BooleanField()

    class Meta(TeamOwned.Meta):
        ordering = ["row"]

    def __str__(self) -> str:
        return f"row {self.row}"


# Django looks for models here.
from experiments.llm_judge.models import Judgement, JudgeSetting  # noqa: E402, F401
from experiments.trackers.models import TrackedRun, TrackerSetting  # noqa: E402, F401

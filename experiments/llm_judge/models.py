"""Whom a team asks for a judgement, and what was judged."""

from __future__ import annotations

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.utils.translation import gettext_lazy as _

from experiments.llm_judge.costs import cost_of
from experiments.llm_judge.rubric import DEFAULT_RUBRIC, MOST_ROWS
from portal.models import User
from portal.scoping import TeamOwned


class JudgeSetting(TeamOwned):
    """The model that a team asks to rate answers: anything that speaks OpenAI's chat completions."""

    address = models.URLField(_("address"), max_length=500)
    model = models.CharField(_("model"), max_length=200)
    secret = models.SlugField(_("secret"), max_length=60, blank=True, help_text="name of a TeamSecret")
    rubric = models.TextField(_("rubric"), max_length=4000, default=DEFAULT_RUBRIC)
    rows = models.PositiveSmallIntegerField(
        _("rows"), default=50, validators=[MinValueValidator(1), MaxValueValidator(MOST_ROWS)]
    )
    prompt_price = models.FloatField(default=0, help_text="of a million tokens of questions")
    answer_price = models.FloatField(default=0, help_text="of a million tokens of replies")
    most_cost = models.FloatField(null=True, blank=True, help_text="what one judgement may cost; none: no limit")
    updated_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+", null=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta(TeamOwned.Meta):
        constraints = [models.UniqueConstraint(fields=["team"], name="one_judge_per_team")]

    def __str__(self) -> str:
        return self.model


class Judgement(TeamOwned):
    """One look of a judge at an evaluation: QUEUED → RUNNING → READY, FAILED or CANCELLED.

    There is one open at a time per evaluation.

    What was asked is frozen here, so that a changed setting changes no figure.
    """

    class Status(models.TextChoices):
        QUEUED = "queued", _("Queued")
        RUNNING = "running", _("Running")
        READY = "ready", _("Ready")
        FAILED = "failed", _("Failed")
        CANCELLED = "cancelled", _("Cancelled")

    OPEN = (Status.QUEUED, Status.RUNNING)

    evaluation = models.ForeignKey("experiments.Evaluation", on_delete=models.CASCADE, related_name="judgements")
    status = models.CharField(max_length=12, choices=Status.choices, default=Status.QUEUED)
    address = models.CharField(max_length=500)
    model = models.CharField(max_length=200)
    secret = models.CharField(max_length=60, blank=True)
    rubric = models.TextField()
    rows = models.PositiveSmallIntegerField(help_text="held-out rows that are rated")
    done = models.PositiveSmallIntegerField(default=0)
    figures = models.JSONField(default=dict, help_text="experiments.llm_judge.rubric.figures_of()")
    ratings = models.JSONField(default=list, help_text="row, score and reason per subject; score null where missing")
    prompt_tokens = models.PositiveBigIntegerField(default=0)
    answer_tokens = models.PositiveBigIntegerField(default=0)
    prompt_price = models.FloatField(default=0)
    answer_price = models.FloatField(default=0)
    most_cost = models.FloatField(null=True)
    is_capped = models.BooleanField(default=False, help_text="ended early, since another row might have cost too much")
    error = models.CharField(max_length=500, blank=True)
    attempts = models.PositiveSmallIntegerField(default=0)
    heartbeat_at = models.DateTimeField(null=True)
    claim = models.UUIDField(null=True, help_text="of the worker at it; one with another claim must stop")
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+", null=True)
    created_at = models.DateTimeField(auto_now_add=True)
    ended_at = models.DateTimeField(null=True)

    class Meta(TeamOwned.Meta):
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["evaluation"],
                condition=models.Q(status__in=["queued", "running"]),
                name="one_open_judgement_per_evaluation",
            )
        ]

    def __str__(self) -> str:
        return self.model

    @property
    def is_open(self) -> bool:
        """Whether it waits or is worked on."""
        return self.status in self.OPEN

    @property
    def cost(self) -> float | None:
        """What it has cost by the prices it was asked at, None where nobody has named any."""
        if not (self.prompt_price or self.answer_price):
            return None
        return cost_of(self.prompt_tokens, self.answer_tokens, self.prompt_price, self.answer_price)

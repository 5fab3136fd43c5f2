"""Where a team's figures are copied to, and how far each run has got there."""

from __future__ import annotations

from typing import Final

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from portal.models import User
from portal.scoping import TeamOwned

LONGEST_ADDRESS: Final = 500
LONGEST_EXPERIMENT: Final = 200


class TrackerSetting(TeamOwned):
    """The MLflow tracking server of a team. Its key is a `TeamSecret`, known here by its name."""

    address = models.CharField(_("address"), max_length=LONGEST_ADDRESS)
    experiment = models.CharField(_("experiment"), max_length=LONGEST_EXPERIMENT)
    secret = models.SlugField(_("secret"), max_length=60, blank=True, help_text="name of a TeamSecret")
    since = models.DateTimeField(default=timezone.now, help_text="runs that started earlier are not copied")
    updated_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+", null=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta(TeamOwned.Meta):
        constraints = [models.UniqueConstraint(fields=["team"], name="one_tracker_per_team")]

    def __str__(self) -> str:
        return self.address


class TrackedRun(TeamOwned):
    """One run at the tracker: OPEN while there is something to send, then DONE, or FAILED when nothing gets through."""

    class Status(models.TextChoices):
        OPEN = "open", _("Being copied")
        DONE = "done", _("Copied")
        FAILED = "failed", _("Given up")

    tracker = models.ForeignKey(TrackerSetting, on_delete=models.CASCADE, related_name="tracked")
    run = models.OneToOneField("experiments.Run", on_delete=models.CASCADE, related_name="tracked")
    status = models.CharField(max_length=8, choices=Status.choices, default=Status.OPEN)
    experiment_id = models.CharField(max_length=64, blank=True, help_text="the tracker's")
    external_id = models.CharField(max_length=64, blank=True, help_text="the run's id at the tracker")
    sent_point = models.BigIntegerField(default=0, help_text="id of the last MetricPoint that has arrived")
    sent_step = models.PositiveIntegerField(default=0)
    attempts = models.PositiveSmallIntegerField(default=0, help_text="since something last arrived")
    next_try_at = models.DateTimeField(default=timezone.now)
    problem = models.CharField(max_length=300, blank=True, help_text="why the last try failed")
    sent_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta(TeamOwned.Meta):
        ordering = ["-created_at", "-id"]
        indexes = [
            models.Index(fields=["next_try_at"], condition=models.Q(status="open"), name="tracked_run_due"),
        ]

    def __str__(self) -> str:
        return f"{self.run} at {self.tracker}"

    @property
    def url(self) -> str:
        """Where people see it at the tracker, empty before it is there."""
        if not self.external_id:
            return ""
        return f"{self.tracker.address}/#/experiments/{self.experiment_id}/runs/{self.external_id}"

"""Quotas: what a team may use, what it has used in a month or minute, and what is set aside for work under way."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.utils.translation import gettext_lazy as _

from portal.scoping import TeamOwned


class Quota(models.TextChoices):
    """What is limited. Minutes and months are those of UTC."""

    GPU_SECONDS = "gpu_seconds_per_month", _("GPU time a month")
    CONCURRENT_RUNS = "concurrent_runs", _("Runs at the same time")
    QUEUED_RUNS = "queued_runs", _("Waiting runs")
    STORAGE_BYTES = "storage_bytes", _("Storage")
    DEPLOYMENTS = "deployments", _("Deployments")
    REQUESTS_PER_MINUTE = "requests_per_minute", _("Requests a minute")
    TOKENS_PER_MINUTE = "tokens_per_minute", _("Tokens a minute")
    TOKENS_PER_MONTH = "tokens_per_month", _("Tokens a month")


class PlatformLimit(models.Model):
    """How much of something a team may use if nothing else is said; without a value there is no limit."""

    kind = models.CharField(max_length=24, choices=Quota.choices, primary_key=True)
    value = models.PositiveBigIntegerField(null=True, blank=True)

    class Meta:
        ordering = ["kind"]

    def __str__(self) -> str:
        return self.kind


class TeamLimit(TeamOwned):
    """One team's own limit instead of the platform's; without a value there is no limit."""

    kind = models.CharField(max_length=24, choices=Quota.choices)
    value = models.PositiveBigIntegerField(null=True, blank=True)

    class Meta(TeamOwned.Meta):
        constraints = [models.UniqueConstraint(fields=["team", "kind"], name="one_limit_per_team_and_kind")]

    def __str__(self) -> str:
        return f"{self.kind} of {self.team}"


class QuotaWindow(TeamOwned):
    """What a team has used of something in one minute or month, with what is set aside. A new window starts at 0."""

    kind = models.CharField(max_length=24, choices=Quota.choices)
    starts_at = models.DateTimeField()
    used = models.BigIntegerField(default=0)

    class Meta(TeamOwned.Meta):
        constraints = [
            models.UniqueConstraint(fields=["team", "kind", "starts_at"], name="one_window_per_team_kind_and_start")
        ]

    def __str__(self) -> str:
        return f"{self.kind} from {self.starts_at:%F %R}"


class QuotaReservation(TeamOwned):
    """What is set aside for one request until its true amounts are known; one that is forgotten is given back."""

    # It lives for minutes at most: making sure each time that there is the team would lock the team's row.
    team = models.ForeignKey(
        "portal.Team", on_delete=models.CASCADE, related_name="%(class)ss", db_constraint=False, db_index=False
    )
    kinds = ArrayField(models.CharField(max_length=24))
    starts = ArrayField(models.DateTimeField())
    amounts = ArrayField(models.BigIntegerField())
    expires_at = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return f"{self.amounts} until {self.expires_at:%F %T}"


class QuotaAlert(TeamOwned):
    """A team reached 80 or 100% of a limit; the row makes sure that its admins are told once a month."""

    kind = models.CharField(max_length=24, choices=Quota.choices)
    month = models.DateField(help_text="the first day of it")
    percent = models.PositiveSmallIntegerField()
    is_current = models.BooleanField(default=True, help_text="whether it is still so")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta(TeamOwned.Meta):
        ordering = ["kind", "-percent"]
        constraints = [
            models.UniqueConstraint(fields=["team", "kind", "month", "percent"], name="one_alert_per_limit_and_month")
        ]

    def __str__(self) -> str:
        return f"{self.percent}% of {self.kind}"

"""The usage ledger: what each team used on each day, by API token and by model."""

from __future__ import annotations

import uuid

from django.db import models

from portal.scoping import TeamOwned

NOBODY = uuid.UUID(int=0)


class UsageDay(TeamOwned):
    """Sums of one team and day (UTC). Rows of requests name token and model; GPU time and storage are the team's own.

    No foreign key to the token: what was used stays used when a token is gone.
    """

    id = models.BigAutoField(primary_key=True)  # type: ignore[assignment]
    day = models.DateField()
    token_id = models.UUIDField(default=NOBODY, help_text="zero: people on the pages, or no request at all")
    model = models.CharField(max_length=120, blank=True)
    requests = models.PositiveBigIntegerField(default=0)
    errors = models.PositiveBigIntegerField(default=0)
    prompt_tokens = models.PositiveBigIntegerField(default=0)
    completion_tokens = models.PositiveBigIntegerField(default=0)
    gpu_seconds = models.FloatField(default=0)
    storage_bytes = models.PositiveBigIntegerField(default=0, help_text="as last measured on this day")

    class Meta(TeamOwned.Meta):
        ordering = ["day"]
        constraints = [
            models.UniqueConstraint(fields=["team", "day", "token_id", "model"], name="one_usage_row_per_day_and_use")
        ]
        # For what platform admins ask: one month of all teams, and how much each stored in it.
        indexes = [
            models.Index(fields=["day", "team"], name="usage_of_all_by_day"),
            models.Index(fields=["day", "team"], condition=models.Q(model=""), name="usage_of_teams_by_day"),
        ]

    def __str__(self) -> str:
        return f"{self.day:%F}"

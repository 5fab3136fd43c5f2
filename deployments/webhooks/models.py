"""Endpoints of a team, and what was or is to be sent to each."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from portal.models import User
from portal.scoping import TeamOwned

EVENT_TYPES: Final = (
    "fine_tuning.job.succeeded",
    "fine_tuning.job.failed",
    "fine_tuning.job.cancelled",
    "batch.completed",
    "batch.failed",
    "batch.cancelled",
    "batch.expired",
)


class WebhookEndpoint(TeamOwned):
    """An address that wants to hear of events. Its signing secrets are `TeamSecret`s of their own kind."""

    name = models.CharField(_("name"), max_length=100)
    url = models.CharField(_("address"), max_length=2_000)
    event_types = ArrayField(models.CharField(max_length=40), help_text="which events are sent")
    secret_hint = models.CharField(max_length=8, help_text="the last letters of its secret")
    old_secret_until = models.DateTimeField(null=True, help_text="until when the secret before signs as well")
    is_active = models.BooleanField(default=True)
    note = models.CharField(max_length=300, blank=True, help_text="why it was switched off")
    failing_since = models.DateTimeField(null=True, help_text="since when nothing has arrived")
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+", null=True)
    created_at = models.DateTimeField(default=timezone.now)
    updated_at = models.DateTimeField(default=timezone.now)

    class Meta(TeamOwned.Meta):
        ordering = ["-created_at", "-id"]

    def __str__(self) -> str:
        return self.name

    @property
    def public_id(self) -> str:
        """The id that clients know."""
        return f"we_{self.pk.hex}"

    @property
    def secret_name(self) -> str:
        """The name of the team's secret that signs."""
        return f"webhook-{self.pk.hex}"

    @property
    def old_secret_name(self) -> str:
        """The name of the secret that signed before it was rotated."""
        return f"{self.secret_name}-old"

    def signs_with_old(self, now: datetime) -> bool:
        """Whether the secret before the last rotation still signs, too."""
        return self.old_secret_until is not None and now < self.old_secret_until


class WebhookDelivery(TeamOwned):
    """One event on its way to one endpoint: written with what it tells of, sent until it has arrived."""

    class Status(models.TextChoices):
        PENDING = "pending", _("On its way")
        DELIVERED = "delivered", _("Delivered")
        FAILED = "failed", _("Given up")

    endpoint = models.ForeignKey(WebhookEndpoint, on_delete=models.CASCADE, related_name="deliveries")
    event_id = models.UUIDField(help_text="the same at every endpoint")
    event_type = models.CharField(max_length=40)
    subject = models.CharField(max_length=60, help_text="public id of the job or batch")
    occurred_at = models.DateTimeField()
    is_test = models.BooleanField(default=False)
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.PENDING)
    attempts = models.PositiveSmallIntegerField(default=0)
    next_try_at = models.DateTimeField(null=True)
    answered = models.PositiveSmallIntegerField(null=True, help_text="HTTP status of the last answer")
    problem = models.CharField(max_length=300, blank=True, help_text="why the last try failed")
    created_at = models.DateTimeField(default=timezone.now)
    delivered_at = models.DateTimeField(null=True)

    class Meta(TeamOwned.Meta):
        ordering = ["-created_at", "-id"]
        indexes = [
            models.Index(fields=["next_try_at"], condition=models.Q(status="pending"), name="webhook_delivery_due"),
            models.Index(fields=["endpoint", "-created_at"], name="webhook_delivery_by_endpoint"),
        ]

    def __str__(self) -> str:
        return self.webhook_id

    @property
    def webhook_id(self) -> str:
        """What the receiver knows it by; the same at every try."""
        return f"wh_{self.pk.hex}"

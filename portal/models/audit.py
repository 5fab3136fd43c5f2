"""The audit trail: who did what, append-only (the database itself refuses changes)."""

from __future__ import annotations

import uuid

from django.db import models
from django.utils.translation import gettext_lazy as _


class AuditEvent(models.Model):
    """One thing that somebody did or was refused, written in the same transaction as the thing itself."""

    class Outcome(models.TextChoices):
        DONE = "done", _("Done")
        READ = "read", _("Data read")
        DENIED = "denied", _("Refused")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    at = models.DateTimeField(auto_now_add=True)
    # No foreign keys: the trail outlives what it speaks of.
    team_id = models.UUIDField(null=True, db_index=True)
    user_id = models.UUIDField(null=True)
    actor = models.CharField(max_length=254)
    impersonator_id = models.UUIDField(null=True)
    token_id = models.UUIDField(null=True)
    action = models.CharField(max_length=60)
    object_type = models.CharField(max_length=60, blank=True)
    object_id = models.CharField(max_length=64, blank=True)
    object_name = models.CharField(max_length=200, blank=True)
    ip = models.GenericIPAddressField(null=True)
    request_id = models.CharField(max_length=64, blank=True)
    outcome = models.CharField(max_length=10, choices=Outcome.choices, default=Outcome.DONE)
    detail = models.JSONField(default=dict)
    # Refusals are counted once per doer, route and minute, so that a flood of them cannot fill the disk.
    once_key = models.CharField(max_length=64, null=True, unique=True)  # noqa: DJ001 — NULLs are not compared

    class Meta:
        ordering = ["-at", "-id"]
        indexes = [
            models.Index(fields=["team_id", "-at", "-id"], name="audit_by_team_and_time"),
            models.Index(fields=["-at", "-id"], name="audit_by_time"),
        ]

    def __str__(self) -> str:
        return f"{self.at:%F %T} {self.actor} {self.action}"

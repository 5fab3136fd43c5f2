"""What platform admins keep: maintenance, announcements, and who looked at the portal as whom."""

from __future__ import annotations

import uuid

from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from portal.models.people import User


class PlatformState(models.Model):
    """The one row that says whether the portal is closed for maintenance."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1, editable=False)
    maintenance_since = models.DateTimeField(null=True)
    maintenance_message = models.CharField(_("message"), max_length=300, blank=True)
    retry_after_s = models.PositiveIntegerField(_("seconds until programs should try again"), default=300)

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(id=1), name="one_platform_state")]

    def __str__(self) -> str:
        return "maintenance" if self.maintenance_since else "open"


class AnnouncementQuerySet(models.QuerySet["Announcement"]):
    """Questions about announcements."""

    def current(self) -> AnnouncementQuerySet:
        """Announcements whose time has come and is not over."""
        now = timezone.now()
        return self.filter(Q(ends_at=None) | Q(ends_at__gt=now), starts_at__lte=now)


class Announcement(models.Model):
    """A sentence that everybody reads at the top of their pages for a while."""

    class Tone(models.TextChoices):
        INFO = "info", _("Information")
        SUCCESS = "success", _("Good news")
        WARNING = "warning", _("Warning")
        DANGER = "danger", _("Disturbance")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    text = models.CharField(_("text"), max_length=300)
    tone = models.CharField(_("tone"), max_length=10, choices=Tone.choices, default=Tone.INFO)
    starts_at = models.DateTimeField(_("from"), default=timezone.now)
    ends_at = models.DateTimeField(_("until"), null=True, blank=True)
    is_dismissible = models.BooleanField(_("people may close it"), default=True)
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    dismissed_by = models.ManyToManyField(User, related_name="+", editable=False)
    objects = AnnouncementQuerySet.as_manager()

    class Meta:
        ordering = ["-starts_at"]

    def __str__(self) -> str:
        return self.text

    @property
    def is_current(self) -> bool:
        """Whether people see it now."""
        return self.starts_at <= timezone.now() and not self.is_over

    @property
    def is_over(self) -> bool:
        """Whether its time is over."""
        return self.ends_at is not None and self.ends_at <= timezone.now()


class Impersonation(models.Model):
    """A platform admin sees the portal as a person, for a reason and for a short time."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    admin = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+")
    person = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+")
    reason = models.CharField(_("reason"), max_length=200)
    started_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-started_at"]

    def __str__(self) -> str:
        return f"{self.admin} as {self.person}"

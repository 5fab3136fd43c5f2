"""Teams are the tenants; a membership gives a person a role in one."""

from __future__ import annotations

import uuid
from pathlib import Path

from django.conf import settings
from django.db import models
from django.utils.translation import gettext_lazy as _

from portal.models.people import User
from portal.scoping import TeamOwned


class Role(models.TextChoices):
    """What a member may do in a team; each role includes the one before it."""

    VIEWER = "viewer", _("Viewer")
    EDITOR = "editor", _("Editor")
    ADMIN = "admin", _("Admin")

    def includes(self, needed: Role) -> bool:
        """Return whether this role is at least `needed`."""
        order = list(Role)
        return order.index(self) >= order.index(needed)


class Team(models.Model):
    """A tenant: everything that is trained or served belongs to exactly one."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(_("name"), max_length=80)
    slug = models.SlugField(_("address"), max_length=60, unique=True)
    weight = models.PositiveSmallIntegerField(_("share of the GPUs"), default=1)
    max_concurrent_runs = models.PositiveSmallIntegerField(_("runs at the same time"), default=2)
    created_at = models.DateTimeField(auto_now_add=True)
    mfa_required = models.BooleanField(_("members need a second factor"), default=False)
    archived_at = models.DateTimeField(_("archived"), null=True, blank=True, editable=False)

    class Meta:
        ordering = ["name"]
        constraints = [models.CheckConstraint(condition=models.Q(weight__gte=1), name="team_weight_positive")]

    def __str__(self) -> str:
        return self.name

    @property
    def folder(self) -> Path:
        """Where this team's files lie; the name is the team's id, so two teams can never meet in one path."""
        return Path(settings.DATA_DIR) / "teams" / str(self.pk)


class Membership(TeamOwned):
    """One person's role in one team."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(_("role"), max_length=10, choices=Role.choices, default=Role.VIEWER)
    # The sign-in provider whose group gave this role, and takes it with it; empty when a person gave it.
    given_by = models.CharField(max_length=60, blank=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta(TeamOwned.Meta):
        ordering = ["created_at"]
        constraints = [models.UniqueConstraint(fields=["team", "user"], name="one_membership_per_person_and_team")]

    def __str__(self) -> str:
        return f"{self.user} · {self.role}"

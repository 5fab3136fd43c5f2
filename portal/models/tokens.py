"""API tokens: the credentials of programs. Only a keyed hash is kept."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from portal.models.people import User
from portal.scoping import TeamOwned


class Scope(models.TextChoices):
    """What a token may be used for."""

    INFERENCE = "inference", _("Call models")
    DATASETS_READ = "datasets:read", _("Read datasets")
    DATASETS_WRITE = "datasets:write", _("Import and change datasets")
    RUNS_READ = "runs:read", _("Read experiments, runs and adapters")
    RUNS_WRITE = "runs:write", _("Start and stop runs")
    DEPLOYMENTS_READ = "deployments:read", _("Read deployments")
    DEPLOYMENTS_WRITE = "deployments:write", _("Deploy and stop models")


class ApiToken(TeamOwned):
    """A credential of a team, looked up by its key id and proven by the keyed hash of its secret."""

    name = models.CharField(_("name"), max_length=80)
    key_id = models.CharField(max_length=16, unique=True)
    digest = models.CharField(max_length=64)
    scopes = ArrayField(models.CharField(max_length=24, choices=Scope.choices))
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="api_tokens")
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(_("expires"), null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)

    class Meta(TeamOwned.Meta):
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return self.name

    @property
    def is_expired(self) -> bool:
        """Whether its time is over."""
        return self.expires_at is not None and self.expires_at <= timezone.now()

    @property
    def is_usable(self) -> bool:
        """Whether it would be accepted now: neither revoked nor expired."""
        return self.revoked_at is None and not self.is_expired

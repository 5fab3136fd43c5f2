"""API tokens: the credentials of programs. Only a keyed hash is kept."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from portal.models.people import User
from portal.models.teams import Role
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


class ServiceAccount(TeamOwned):
    """Something of the team that is no person, such as a service desk; its tokens live on when people leave."""

    name = models.CharField(_("name"), max_length=80)
    is_active = models.BooleanField(_("active"), default=True)
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+", null=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta(TeamOwned.Meta):
        ordering = ["name"]
        constraints = [models.UniqueConstraint(fields=["team", "name"], name="service_account_name_unique_in_team")]

    def __str__(self) -> str:
        return self.name


class ApiToken(TeamOwned):
    """A credential of a team, looked up by its key id and proven by the keyed hash of its secret.

    It belongs to the person who made it and dies with their membership, or to a service account.
    """

    # The role of the person it belongs to, known after `tokens.find_token`; a service account has none.
    role: Role | None = None

    name = models.CharField(_("name"), max_length=80)
    key_id = models.CharField(max_length=16, unique=True)
    digest = models.CharField(max_length=64)
    pepper_id = models.CharField(max_length=20, default="1", help_text="which pepper the digest was made with")
    scopes = ArrayField(models.CharField(max_length=24, choices=Scope.choices))
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="api_tokens")
    service_account = models.ForeignKey(
        ServiceAccount, on_delete=models.CASCADE, related_name="tokens", null=True, blank=True
    )
    allowed_models = ArrayField(
        models.CharField(max_length=120), default=list, blank=True, help_text="names; empty: every model"
    )
    networks = ArrayField(
        models.CharField(max_length=43), default=list, blank=True, help_text="where it may come from; empty: everywhere"
    )
    replaced_by = models.OneToOneField(
        "ApiToken", on_delete=models.SET_NULL, related_name="replaces", null=True, editable=False
    )
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

    @property
    def may_everything(self) -> bool:
        """Whether it has every scope there is."""
        return set(self.scopes) == set(Scope.values)

    @property
    def person(self) -> User | None:
        """Whose doing it is when it is used; what a service account does is nobody's, whoever made its token."""
        return self.created_by if self.service_account_id is None else None

    @property
    def belongs_to(self) -> str:
        """The service account or person whose token it is, for people to read."""
        return str(self.service_account or self.created_by)

    def may_call(self, model: str) -> bool:
        """Return whether it may be used to call the model of this name."""
        # name@v2 asks for one version of a deployment; no other name holds the sign
        return not self.allowed_models or model.partition("@v")[0] in self.allowed_models

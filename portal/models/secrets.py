"""Secrets of a team, kept as ciphertext only."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from portal.models.people import User
from portal.scoping import TeamOwned


class TeamSecret(TeamOwned):
    """A credential that the portal uses for a team: encrypted, written by people, read by machine code only."""

    class Kind(models.TextChoices):
        HUB_TOKEN = "hub_token", _("Token of the Hugging Face hub")
        STORAGE_KEY = "storage_key", _("Key of a bucket (ACCESS_KEY_ID:SECRET_ACCESS_KEY)")
        AZURE_KEY = "azure_key", _("Azure storage (shared access signature or account key)")
        KAGGLE_TOKEN = "kaggle_token", _("Kaggle (user:key)")
        CONNECTOR = "connector", _("Connector credential")
        ENDPOINT_KEY = "endpoint_key", _("Key of a model endpoint (OpenAI-compatible)")
        TRACKER_KEY = "tracker_key", _("Key of an experiment tracker (token, or name:password)")
        WEBHOOK = "webhook", _("Signing secret of a webhook endpoint")  # made and kept by the portal itself

    kind = models.CharField(_("kind"), max_length=20, choices=Kind.choices)
    name = models.SlugField(_("name"), max_length=60)
    ciphertext = models.BinaryField()
    key_id = models.CharField(max_length=16, help_text="names the installation's key it is encrypted under")
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+", null=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now_add=True)
    last_used_at = models.DateTimeField(null=True)

    class Meta(TeamOwned.Meta):
        ordering = ["kind", "name"]
        constraints = [models.UniqueConstraint(fields=["team", "name"], name="secret_name_unique_in_team")]

    def __str__(self) -> str:
        return self.name

"""Encrypt the teams' secrets under the newest key."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from portal import secrets
from portal.accounts import sealing
from portal.models import TeamSecret
from portal.rls import all_teams


class Command(BaseCommand):
    """`manage.py rotatesecrets`, after TUNEPORT_SECRETS_KEY was changed; may be run again at any time."""

    help = (
        "Encrypt all secrets of teams, and people's second factors, under the newest key. "
        "After it the old keys are no longer needed."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        """Encrypt one after the other; name those that cannot be opened."""
        changed, lost = 0, []
        with all_teams("the key of all teams' secrets changes"):
            for pk in list(TeamSecret.unscoped.values_list("pk", flat=True)):
                secret = (
                    TeamSecret.unscoped.select_for_update(of=("self",)).select_related("team").filter(pk=pk).first()
                )
                if secret is None:
                    continue
                try:
                    changed += secrets.seal_again(secret)
                except secrets.Sealed:
                    lost.append(f"{secret.team.slug}/{secret.name}")
        people, unopened = sealing.seal_all_again()
        lost += unopened
        self.stdout.write(f"encrypted under the newest key: {changed} of the teams' secrets, {people} second factors")
        if lost:
            raise CommandError("These cannot be opened with the keys that are set: " + ", ".join(lost))

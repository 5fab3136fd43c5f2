"""Create a team and its first admin."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from portal import people, teams
from portal.actors import Actor
from portal.errors import PortalError


class Command(BaseCommand):
    """`manage.py createteam NAME --owner EMAIL`: an owner who is new gets a random password, printed once."""

    help = "Create a team and its first admin. A new person gets a random password, which is printed once."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name")
        parser.add_argument("--owner", required=True, metavar="EMAIL")

    def handle(self, *args: Any, **options: Any) -> None:
        """Create team and owner, and print the team's address last."""
        try:
            owner, is_new = teams.find_or_invite_person(options["owner"])
            team = teams.create_team(name=options["name"], owner=owner, actor=Actor.system("createteam"))
        except PortalError as error:
            raise CommandError(error.message) from error
        if is_new:
            self.stdout.write(f"{owner.email} signs in with the password {people.first_password(owner)}")
        self.stdout.write(f"Created team {team.name}: /t/{team.slug}/")

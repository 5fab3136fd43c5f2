"""Create an API token from the command line."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from portal import tokens
from portal.actors import Actor
from portal.errors import PortalError
from portal.models import Role, Scope, Team
from portal.rls import team_scope


class Command(BaseCommand):
    """`manage.py createtoken --team NAME`: the last line of the output is the token."""

    help = "Create an API token for a team; the output ends with the token, which is never shown again."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--team", required=True, metavar="NAME", help="name or address of the team")
        parser.add_argument("--name", default="command line")
        parser.add_argument("--scopes", nargs="+", default=list(Scope.values), choices=Scope.values)

    def handle(self, *args: Any, **options: Any) -> None:
        """Create the token in the name of the team's first admin."""
        found = Team.objects.filter(slug=options["team"]).first() or Team.objects.filter(name=options["team"]).first()
        if found is None:
            raise CommandError(
                f"There is no team '{options['team']}'. Create it with: manage.py createteam NAME --owner EMAIL"
            )
        with team_scope(found.pk):
            admin = found.memberships.select_related("user").filter(role=Role.ADMIN).first()
            if admin is None:
                raise CommandError(f"The team '{found.name}' has no admin who could own the token.")
            try:
                _token, text = tokens.create_token(
                    team=found,
                    actor=Actor.system("createtoken"),
                    owner=admin.user,
                    name=options["name"],
                    scopes=options["scopes"],
                )
            except PortalError as error:
                raise CommandError(error.message) from error
        self.stdout.write(text)

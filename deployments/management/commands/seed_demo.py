"""Make the demo team on a new installation."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from deployments import demo
from portal.demo import credentials_path
from portal.errors import PortalError
from portal.models import Team


class Command(BaseCommand):
    """`manage.py seed_demo`: does nothing once there is any team, so it can be part of every start."""

    help = "Create the demo team, its dataset and its first run, unless this installation has a team already."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--no-run", action="store_true", help="import the dataset but start no experiment")

    def handle(self, *args: Any, **options: Any) -> None:
        """Seed once."""
        if Team.objects.exists():
            self.stdout.write("there are teams already; nothing to seed")
            return
        try:
            credentials = demo.seed_demo(start_run=not options["no_run"])
        except PortalError as error:
            raise CommandError(error.message) from error
        self.stdout.write(f"demo team '{credentials.team}' created; credentials in {credentials_path()}")

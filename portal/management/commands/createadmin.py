"""Make a person a platform admin."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from portal import people, teams
from portal.actors import Actor
from portal.errors import PortalError


class Command(BaseCommand):
    """`manage.py createadmin EMAIL`: the way to the first platform admin; further ones are made in the console."""

    help = "Make a person a platform admin. A new person gets a random password, which is printed once."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("email")

    def handle(self, *args: Any, **options: Any) -> None:
        """Make the admin and say where the console is."""
        try:
            person, is_new = teams.find_or_invite_person(options["email"])
            people.set_platform_admin(person=person, is_admin=True, actor=Actor.system("createadmin"))
        except PortalError as error:
            raise CommandError(error.message) from error
        if is_new:
            self.stdout.write(f"{person.email} signs in with the password {people.first_password(person)}")
        self.stdout.write(f"{person.email} is a platform admin: /platform/")

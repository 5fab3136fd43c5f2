"""`manage.py fetch VERSION`: fetch the files of one version. Started by the queue, not by people."""

import argparse
import uuid
from typing import Any

from django.core.management.base import BaseCommand

from datasets_app.remote import fetching


class Command(BaseCommand):
    """Fetch the files of one version to their end."""

    help = "Fetch the files of one dataset version from elsewhere. Started by the queue."
    # The queue that starts us has checked the system; here it would only cost time.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the argument."""
        parser.add_argument("version", type=uuid.UUID)

    def handle(self, *args: Any, **options: Any) -> None:
        """Fetch."""
        fetching.run(options["version"])

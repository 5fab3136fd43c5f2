"""`manage.py prepare`: bring database, static files and base models to the state that this version needs."""

import argparse
import hashlib
import shutil
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.staticfiles.finders import get_finders
from django.core.management import call_command
from django.core.management.base import BaseCommand


class Command(BaseCommand):
    """Do in one process what every start and every upgrade needs; doing it again changes nothing."""

    help = "Migrate the database, collect static files, register the base model; with --demo also make the demo team."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the options."""
        parser.add_argument("--demo", action="store_true", help="also make the demo team, unless it exists")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the steps."""
        call_command("migrate", interactive=False, verbosity=0)
        call_command("createcachetable", verbosity=0)
        call_command("ensure_schedules")
        call_command("convertrows")
        self.collect_static_files()
        # Kernels of before: trainers could write there.
        shutil.rmtree(Path(settings.DATA_DIR) / "cache", ignore_errors=True)
        call_command("basemodels", "embedded")
        if options["demo"]:
            call_command("seed_demo")

    def collect_static_files(self) -> None:
        """Collect, hash and compress static files if any of them has changed since the last time."""
        stamp = Path(settings.STATIC_ROOT) / ".collected"
        fingerprint = static_fingerprint()
        if not stamp.exists() or stamp.read_text() != fingerprint:
            self.stdout.write("collecting static files")
            call_command("collectstatic", interactive=False, verbosity=0)
            stamp.write_text(fingerprint)


def static_fingerprint() -> str:
    """Return a hash over name, size and time of every static file of the project and its packages."""
    digest = hashlib.sha256()
    for finder in get_finders():
        for name, storage in finder.list([]):
            size, changed = storage.size(name), storage.get_modified_time(name)
            digest.update(f"{name}\0{size}\0{changed.timestamp()}\n".encode())
    return digest.hexdigest()

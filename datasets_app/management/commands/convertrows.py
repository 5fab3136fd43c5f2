"""`manage.py convertrows`: bring the rows of old dataset versions into today's form; `prepare` calls it."""

from typing import Any

from django.core.management.base import BaseCommand

from datasets_app.upgrading import convert_old_versions


class Command(BaseCommand):
    """Do it once; doing it again changes nothing."""

    help = "Convert dataset versions that were imported before rows were kept as Parquet."

    def handle(self, *args: Any, **options: Any) -> None:
        """Convert, and say how many there were."""
        if converted := convert_old_versions():
            self.stdout.write(f"dataset versions converted: {converted}")

"""The experiments app."""

from django.apps import AppConfig


class ExperimentsConfig(AppConfig):
    """Adds the room's figures to the platform's console."""

    name = "experiments"

    def ready(self) -> None:
        from experiments.platform_facts import run_facts
        from portal.platform_facts import report_by

        report_by(run_facts)

"""The experiments app."""

from django.apps import AppConfig


class ExperimentsConfig(AppConfig):
    """Adds the room's figures to the platform's console."""

    name = "experiments"

    def ready(self) -> None:
        from datasets_app import dependants
        from experiments.dataset_dependants import runs_below
        from experiments.platform_facts import run_facts
        from experiments.platform_metrics import run_metrics
        from experiments.services import stop_all_runs
        from portal import prometheus
        from portal.platform_facts import report_by
        from portal.team_end import when_archived

        report_by(run_facts)
        prometheus.report_by(run_metrics)
        when_archived(stop_all_runs)
        dependants.report_by(runs_below)

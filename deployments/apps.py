"""The deployments app."""

from django.apps import AppConfig


class DeploymentsConfig(AppConfig):
    """Adds the room's figures to the platform's console."""

    name = "deployments"

    def ready(self) -> None:
        from datasets_app import dependants
        from deployments.adapter_uses import deployments_with
        from deployments.dataset_dependants import deployments_below
        from deployments.engine_metrics import engine_lines
        from deployments.platform_facts import deployment_facts
        from deployments.request_totals import request_metrics
        from deployments.services import stop_all_deployments
        from deployments.webhooks.outbox import run_ended
        from experiments import endings, kept
        from portal import prometheus
        from portal.platform_facts import report_by
        from portal.team_end import when_archived

        report_by(deployment_facts)
        prometheus.report_by(request_metrics)
        prometheus.relay_by(engine_lines)
        kept.report_by(deployments_with)
        endings.when_ended(run_ended)
        when_archived(stop_all_deployments)
        dependants.report_by(deployments_below)

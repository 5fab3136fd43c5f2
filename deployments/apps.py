"""The deployments app."""

from django.apps import AppConfig


class DeploymentsConfig(AppConfig):
    """Adds the room's figures to the platform's console."""

    name = "deployments"

    def ready(self) -> None:
        from deployments.platform_facts import deployment_facts
        from portal.platform_facts import report_by

        report_by(deployment_facts)

"""The portal app."""

from django.apps import AppConfig


class PortalConfig(AppConfig):
    """Registers the house's own system checks and the trail of sign-ins."""

    name = "portal"

    def ready(self) -> None:
        from portal import checks, prometheus, sign_in_trail  # noqa: F401 — register on import
        from portal.accounts import trail  # noqa: F401
        from portal.platform_metrics import platform_metrics

        prometheus.report_by(platform_metrics)

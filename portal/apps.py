"""The portal app."""

from django.apps import AppConfig


class PortalConfig(AppConfig):
    """Registers the house's own system checks."""

    name = "portal"

    def ready(self) -> None:
        from portal import checks  # noqa: F401 — registers on import

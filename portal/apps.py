"""The portal app."""

from django.apps import AppConfig


class PortalConfig(AppConfig):
    """Registers the house's own system checks and the trail of sign-ins."""

    name = "portal"

    def ready(self) -> None:
        from portal import checks, sign_in_trail  # noqa: F401 — register on import
        from portal.accounts import trail  # noqa: F401

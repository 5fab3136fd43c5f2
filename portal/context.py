"""What base.html needs on every page."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.http import HttpRequest
from django.utils.functional import SimpleLazyObject

from portal.access import teams_of
from portal.alerts import current
from portal.platform_state import shown_to


def navigation(request: HttpRequest) -> dict[str, Any]:
    """Return the current team, the role in it, the teams to switch to, and what stands above every page.

    Teams and announcements are looked up only if the page shows them.
    """
    user = getattr(request, "user", None)
    signed_in = user is not None and user.is_authenticated
    team = getattr(request, "team", None)
    return {
        "team": team,
        "role": getattr(request, "role", None),
        "sign_in_providers": settings.SIGN_IN_PROVIDERS,
        "impersonation": getattr(request, "impersonation", None),
        "announcements": SimpleLazyObject(lambda: shown_to(user)) if signed_in else [],  # type: ignore[arg-type]
        "quota_alerts": SimpleLazyObject(lambda: current(team)) if team is not None else [],
        "teams": SimpleLazyObject(lambda: teams_of(user)) if signed_in else [],  # type: ignore[arg-type]
    }

"""What base.html needs on every page."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django.utils.functional import SimpleLazyObject

from portal.access import teams_of


def navigation(request: HttpRequest) -> dict[str, Any]:
    """Return the current team, the role in it, and the teams to switch to (looked up only if the page shows them)."""
    user = getattr(request, "user", None)
    signed_in = user is not None and user.is_authenticated
    return {
        "team": getattr(request, "team", None),
        "role": getattr(request, "role", None),
        "sign_in_providers": [],
        "teams": SimpleLazyObject(lambda: teams_of(user)) if signed_in else [],  # type: ignore[arg-type]
    }

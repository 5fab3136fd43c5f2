"""While the portal is in maintenance, everybody but platform admins is told so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _

from portal import platform_state
from portal.access import policy_of
from portal.errors import Unavailable
from portal.models import User
from portal.views.errors import error_response, is_api

Handler = Callable[[HttpRequest], HttpResponse]


class closed_for_maintenance:  # noqa: N801 — a middleware like its siblings, which are functions
    """Answer 503 with Retry-After; pages that anybody may see stay open, so that admins can sign in."""

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_view(self, request: HttpRequest, view: Any, args: Any, kwargs: Any) -> HttpResponse | None:
        policy = policy_of(view)
        if policy is None or policy.kind == "public":
            return None
        state = platform_state.current()
        if state.maintenance_since is None or _is_platform_admin(request):
            return None
        message = state.message or _("The portal is closed for maintenance. It will be back soon.")
        closed = Unavailable(message, retry_after_s=state.retry_after_s, code="maintenance")
        if is_api(request):
            return error_response(request, status=503, error=closed)
        page = render(request, "errors/maintenance.html", {"message": message}, status=503)
        page["Retry-After"] = str(state.retry_after_s)
        return page


def _is_platform_admin(request: HttpRequest) -> bool:
    if is_api(request):
        return False  # a token acts for a team, whoever made it
    admin = getattr(request, "impersonator", None) or request.user
    return isinstance(admin, User) and admin.is_platform_admin

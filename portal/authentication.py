"""Who may knock at the API: bearer tokens only; session cookies are ignored there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote

from django.utils.translation import gettext as _
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.permissions import BasePermission

from portal import tokens
from portal.client_address import client_address, is_within
from portal.errors import Forbidden
from portal.models import Role, Scope

if TYPE_CHECKING:
    from rest_framework.request import Request

    from portal.models import ApiToken, User


class ApiTokenAuthentication(BaseAuthentication):
    """Reads `Authorization: Bearer tnp_…`; `request.auth` becomes the token, whose team is the caller's team."""

    def authenticate(self, request: Request) -> tuple[User | None, ApiToken] | None:
        """Return the token's owner (None for a service account) and the token, or None without a header.

        Raises: AuthenticationFailed with one body for unknown, wrong, revoked and ownerless tokens; Forbidden from
        a network that the token does not name.
        """
        if _is_in_address(request.META):
            # Addresses end up in logs and histories, so a token in one is as good as published.
            raise AuthenticationFailed(
                _("Never put an API token into an address: revoke it, and send the new one in the header."),
                "token_in_address",
            )
        header = request.META.get("HTTP_AUTHORIZATION", "")
        if not header:
            return None
        text = _bearer(header)
        if text is None:
            raise AuthenticationFailed(_("Send the API token as 'Authorization: Bearer <token>'."), "invalid_api_key")
        token, is_valid = self._find(request, text)
        http = cast(Any, request._request)
        http.api_token = token  # for the trail of refusals
        http.has_bad_token = token is None  # for `refuse_bad_tokens`
        if token is None or not is_valid:
            raise AuthenticationFailed(
                _("This API token is not valid. Check it or create a new one."), "invalid_api_key"
            )
        if token.is_expired:
            raise AuthenticationFailed(_("This API token has expired. Create a new one."), "expired_api_key")
        if token.networks and not is_within(client_address(request), token.networks):
            raise Forbidden(
                _("This API token may not be used from your network. Ask a member of the team to allow it."),
                code="ip_not_allowed",
            )
        tokens.note_use(token)
        return token.person, token

    def _find(self, request: Request, text: str) -> tuple[ApiToken | None, bool]:
        """Look the token up, or recall it for a view that `recalls_tokens` and has them confirmed before anything
        comes of it: `request.recalled` is then what is remembered. A request that `must_look_up` is one for which
        memory was no help.
        """
        http = cast(Any, request._request)
        may_recall = getattr(request.parser_context.get("view"), "recalls_tokens", False)
        http.recalled = tokens.recall(text) if may_recall and not getattr(http, "must_look_up", False) else None
        return (http.recalled.token, True) if http.recalled is not None else tokens.look_up(text)

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="tuneport"'


def shown_token(meta: Mapping[str, Any]) -> str | None:
    """Return what a request shows as its API token, or None if it is refused for the way in which it shows it."""
    return None if _is_in_address(meta) else _bearer(meta.get("HTTP_AUTHORIZATION", ""))


def _is_in_address(meta: Mapping[str, Any]) -> bool:
    query = meta.get("QUERY_STRING", "")
    return bool(query) and tokens.holds_token(unquote(query))


def _bearer(header: str) -> str | None:
    scheme, _space, text = header.partition(" ")
    return text.strip() if scheme.lower() == "bearer" and len(text) <= 200 else None


class HasScope(BasePermission):
    """Lets a token in whose scopes include what the view asks for: `scopes = {"GET": …, "POST": …}` or one scope."""

    def has_permission(self, request: Request, view: Any) -> bool:
        if request.auth is None:
            return False
        method = "GET" if request.method == "HEAD" else str(request.method)  # what answers GET answers HEAD
        wanted = view.scopes if isinstance(view.scopes, str) else view.scopes.get(method)
        token = cast("ApiToken", request.auth)
        if wanted is None:
            # What the view does not do at all is answered with 405; what it does and names no scope for, nobody may.
            return method == "OPTIONS" or not hasattr(view, method.lower())
        if wanted not in token.scopes:
            raise Forbidden(
                _("This API token lacks the scope '%(scope)s'.") % {"scope": wanted}, code="insufficient_scope"
            )
        if token.role == Role.VIEWER and wanted in _CHANGING:
            raise Forbidden(_("The owner of this API token may only look at things in the team by now."))
        return True


# A token can do no more than the person whose it is.
_CHANGING = {Scope.DATASETS_WRITE, Scope.RUNS_WRITE, Scope.DEPLOYMENTS_WRITE}


class ApiTokenScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """Describes the bearer token in the OpenAPI document."""

    target_class = "portal.authentication.ApiTokenAuthentication"
    name = "apiToken"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "description": "An API token of the team: `Bearer tnp_…`"}

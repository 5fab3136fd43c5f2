"""The one handler that turns every error of the API into the one error object."""

from __future__ import annotations

import logging
from typing import Any

from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import Http404
from django.utils.translation import gettext as _
from rest_framework import exceptions
from rest_framework.response import Response

from portal.errors import PortalError, error_body
from portal.views.errors import database_away, default_message

logger = logging.getLogger(__name__)

_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
}


def exception_handler(exc: Exception, context: dict[str, Any]) -> Response | None:
    """Return the error as a response; None (a 500 page in the same shape) for what nobody foresaw."""
    if getattr(context.get("view"), "scope_is_open", False):
        transaction.set_rollback(True)  # an answer that says no leaves nothing half-made
    if away := database_away(exc):
        logger.error("no answer from the database", exc_info=exc)
        exc = away
    if isinstance(exc, PortalError):
        body = error_body(exc.message, kind=exc.kind, code=exc.code, param=exc.param, details=exc.details)
        return Response(body, status=exc.status, headers=exc.headers)
    if isinstance(exc, Http404):
        exc = exceptions.NotFound(default_message(404))
    elif isinstance(exc, PermissionDenied):
        exc = exceptions.PermissionDenied()
    return _from_drf(exc) if isinstance(exc, exceptions.APIException) else None


def _from_drf(exc: exceptions.APIException) -> Response:
    status, headers = exc.status_code, {}
    if isinstance(exc, exceptions.NotAuthenticated):
        status = 401
        exc = exceptions.NotAuthenticated(_("Send an API token: 'Authorization: Bearer <token>'."), "invalid_api_key")
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="tuneport"'
    if wait_s := getattr(exc, "wait", None):
        headers["Retry-After"] = str(int(wait_s) + 1)
    kind = _KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
    if isinstance(exc, exceptions.ValidationError):
        details = list(_flatten(exc.detail))
        missing = next((detail for detail in details if detail["code"] == "does_not_exist"), None)
        if missing is not None:
            return _nothing_there(missing["param"])
        for detail in details:
            del detail["code"]
        first = details[0] if details else {"param": None, "message": default_message(400)}
        body = error_body(
            str(first["message"]),
            kind=kind,
            code="invalid_value",
            param=first["param"],
            details=details if len(details) > 1 else (),
        )
    else:
        body = error_body(str(exc.detail), kind=kind, code=_code(exc))
    return Response(body, status=status, headers=headers)


def _nothing_there(param: str | None) -> Response:
    """A key in the body that leads nowhere, or to another team: the same answer as for one in the address."""
    message = _("There is nothing with the key given as '%(param)s'.") % {"param": param}
    return Response(error_body(message, kind="invalid_request_error", code="not_found", param=param), status=404)


def _code(exc: exceptions.APIException) -> str:
    code = getattr(exc.detail, "code", None) or exc.default_code
    return "invalid_json" if isinstance(exc, exceptions.ParseError) else str(code)


def _flatten(detail: Any, path: str = "") -> Any:
    """Yield {param, message, code} of every leaf of DRF's nested validation errors."""
    if isinstance(detail, dict):
        for name, inner in detail.items():
            own = path if name == "non_field_errors" else f"{path}.{name}" if path else str(name)
            yield from _flatten(inner, own)
    elif isinstance(detail, list):
        for inner in detail:
            yield from _flatten(inner, path)
    else:
        yield {"param": path or None, "message": str(detail), "code": getattr(detail, "code", None)}

"""Errors in plain words: JSON in the API's one shape under /api and /v1, a designed page everywhere else."""

from __future__ import annotations

import sys

from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.template.loader import render_to_string
from django.utils.translation import gettext as _

from portal.access import public_view
from portal.errors import PortalError, Unavailable, error_body

_KINDS = {401: "authentication_error", 403: "permission_error", 409: "conflict_error", 429: "rate_limit_error"}
_CODES = {
    400: "bad_request",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    411: "length_required",
    413: "request_too_large",
    500: "internal_error",
}


def default_message(status: int) -> str:
    """Return the sentence for a status when nothing better is known."""
    messages = {
        400: _("The request could not be understood."),
        403: _("You may not do this here."),
        404: _("There is nothing at this address, or it belongs to another team."),
        405: _("This address does not take that method."),
        411: _("Say how long the body is, in the header Content-Length."),
        413: _("The upload is larger than this portal takes. Split the file or ask an admin for a higher limit."),
        500: _("Something went wrong on our side. It has been noted; try again in a moment."),
    }
    return messages.get(status, messages[400])


def is_api(request: HttpRequest) -> bool:
    """Whether the caller is a program that wants the JSON error object."""
    return request.path.startswith(("/api/", "/v1/")) or request.path == "/v1"


def database_away(failure: BaseException | None) -> Unavailable | None:
    """Return the error to answer with if the failure is the database's and passes: it is away, full or too busy."""
    if not isinstance(failure, (OperationalError, InterfaceError)):
        return None
    message = _("The portal's database cannot be reached at the moment. Try again in a few seconds.")
    return Unavailable(message, code="database_unavailable", retry_after_s=5)


def error_response(request: HttpRequest, *, status: int, error: PortalError | None = None) -> HttpResponse:
    """Return the error as JSON or as a page."""
    message = error.message if error else default_message(status)
    code = error.code if error else _CODES.get(status, "error")
    details = error.details if error else []
    headers = error.headers if error else {}
    if is_api(request):
        kind = error.kind if error else "server_error" if status >= 500 else _KINDS.get(status, "invalid_request_error")
        param = error.param if error else None
        body = error_body(message, kind=kind, code=code, param=param, details=details)
        return JsonResponse(body, status=status, headers=headers)
    context = {"status": status, "message": message, "details": details}
    # A page about a broken server asks nothing of it: without the request, no context processor reads the database.
    page = render_to_string("errors/error.html", context, request if status < 500 else None)
    response = HttpResponse(page, status=status)
    for name, value in headers.items():
        response[name] = value
    return response


@public_view
def bad_request(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    """Handler of 400."""
    return error_response(request, status=400)


@public_view
def forbidden(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    """Handler of 403."""
    return error_response(request, status=403)


@public_view
def not_found(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    """Handler of 404: the same for strangers and for addresses that do not exist."""
    return error_response(request, status=404)


@public_view
def server_error(request: HttpRequest) -> HttpResponse:
    """Handler of 500, and of the database's absence where no view was reached yet."""
    away = database_away(sys.exception())
    return error_response(request, status=away.status if away else 500, error=away)


@public_view
def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """Say what a failed CSRF check means for a person: the form is too old."""
    message = _("This form has expired or cookies are blocked. Reload the page and send it again.")
    return error_response(request, status=403, error=_Stale(message))


class _Stale(PortalError):
    code = "csrf_failed"
    status = 403

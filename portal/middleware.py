"""What happens around every request: an id, security headers, the closed default, and errors in plain words."""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from django.conf import settings
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse

from portal import logs
from portal.access import policy_of
from portal.chunked import MULTIPART_SLACK_BYTES, is_chunked
from portal.errors import PortalError
from portal.views.errors import database_away, error_response, is_api

logger = logging.getLogger(__name__)
Handler = Callable[[HttpRequest], HttpResponse]
_SAFE_ID = re.compile(r"[A-Za-z0-9._-]{8,64}\Z")
_SAID_BY_PROXIES = ("HTTP_X_FORWARDED_", "HTTP_FORWARDED", "HTTP_X_REAL_IP")
_LONGEST_RETRY_S = 120  # told to wait longer, OpenAI's SDK does not retry at all


def trusted_proxies(get_response: Handler) -> Handler:
    """Believe what proxies say about callers only if it is our own proxy that says so."""

    def middleware(request: HttpRequest) -> HttpResponse:
        if not (settings.BEHIND_PROXY and _is_our_proxy(request.META.get("REMOTE_ADDR", ""))):
            for name in [name for name in request.META if name.startswith(_SAID_BY_PROXIES)]:
                del request.META[name]
        return get_response(request)

    return middleware


def _is_our_proxy(peer: str) -> bool:
    if not peer:
        return True  # a Unix socket: whoever may write to it was let in by the operating system
    try:
        address = ip_address(peer)
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return any(address in network for network in settings.TRUSTED_PROXIES)


def request_id(get_response: Handler) -> Handler:
    """Give every request an id, taken from the caller when it is harmless, and refuse bodies over the limit."""

    def middleware(request: HttpRequest) -> HttpResponse:
        sent = request.headers.get("X-Request-ID", "")
        request.request_id = sent if _SAFE_ID.match(sent) else _new_id()  # type: ignore[attr-defined]
        mark, response, started = logs.begin(request), None, time.monotonic()
        try:
            response = answer(request)
        finally:
            logs.end(mark, response)
        response["x-request-id"] = request.request_id  # type: ignore[attr-defined]
        if request.path.startswith("/v1/"):
            _speak_as_openai(response, started)
        return response

    def answer(request: HttpRequest) -> HttpResponse:
        length = request.META.get("CONTENT_LENGTH") or "0"
        # A part of a resumable upload is streamed to its file by the one view that takes it.
        is_part = request.content_type == "application/offset+octet-stream"
        limit = settings.MAX_DATASET_BYTES if is_part else settings.MAX_UPLOAD_BYTES
        if length.isdigit() and int(length) > limit + MULTIPART_SLACK_BYTES:
            return error_response(request, status=413)
        if is_chunked(request.META) and (is_part or not is_api(request)):
            return error_response(request, status=411)  # `TeamAPIView` reads what comes in chunks
        return get_response(request)

    return middleware


def _new_id() -> str:
    """Return what nobody else is called; it is no secret, and need not cost a call of the operating system."""
    return f"req_{random.getrandbits(128):032x}"


def _speak_as_openai(response: HttpResponse, started: float) -> None:
    """Say what clients of OpenAI read in every answer: how long it took (a stream: until it began), when to retry."""
    response.headers.setdefault("openai-processing-ms", str(round((time.monotonic() - started) * 1000)))
    wait_s = response.headers.get("Retry-After", "")
    if wait_s.isdecimal() and int(wait_s) > _LONGEST_RETRY_S:
        response["Retry-After"] = str(_LONGEST_RETRY_S)


def security_headers(get_response: Handler) -> Handler:
    """Send a strict content security policy, and keep signed-in pages out of caches."""
    policy = "; ".join(f"{name} {value}" for name, value in settings.CONTENT_SECURITY_POLICY.items())

    def middleware(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        response.headers.setdefault("Content-Security-Policy", policy)
        response.headers.setdefault("Permissions-Policy", "camera=(), microphone=(), geolocation=()")
        if not request.path.startswith(settings.STATIC_URL):
            response.headers.setdefault("Cache-Control", "no-store")
        return response

    return middleware


# Where a chain of middleware begins for programs. Django builds a chain from its end, so `programs_enter` notes the
# place before `programs_pass_by` of the same chain asks for it.
_entries: list[Handler] = []


def programs_enter(get_response: Handler) -> Handler:
    """Mark where requests under /v1 come in again that `programs_pass_by` sent past what only pages need."""
    _entries.append(get_response)
    return get_response


def programs_pass_by(get_response: Handler) -> Handler:
    """Send requests under /v1 past sessions, cookies, forms and static files: programs show a token, and nothing else.

    What stands between this and `programs_enter` does not see them; its hooks for views have to do without.
    """
    entry = _entries.pop()

    def middleware(request: HttpRequest) -> HttpResponse:
        if not request.path_info.startswith("/v1/"):
            return get_response(request)
        request.get_host()  # one that is not ours is refused, as it is for pages
        request.user, request.impersonator = AnonymousUser(), None  # type: ignore[attr-defined]
        response = entry(request)
        if not response.streaming:
            response.headers.setdefault("Content-Length", str(len(response.content)))
        return response

    return middleware


class require_policy:  # noqa: N801 — a middleware like its siblings, which are functions
    """Refuse to serve a route that declares no access policy (the start-up check says so first)."""

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_view(self, request: HttpRequest, view: Any, args: Any, kwargs: Any) -> None:
        if policy_of(view) is None:
            raise ImproperlyConfigured(f"{view!r} declares no access policy")


class domain_errors:  # noqa: N801
    """Turn the domain's errors, raised anywhere in a page, into a page that says what to do."""

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        if away := database_away(exception):
            logger.error("no answer from the database", exc_info=exception)
        error = away or exception
        return error_response(request, status=error.status, error=error) if isinstance(error, PortalError) else None

"""The one way out: requests to addresses that people typed in, so that none of them reaches our own network.

`reachable` says where a request may go, and the connection goes to exactly that address: a name that answers
differently a moment later gains nothing. Redirects pass the same way.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
from django.utils.translation import gettext as _

from portal.cutting_off import cut_off_after
from portal.display.numbers import filesize
from portal.reachable import OutboundFailed, OutboundRefused, require_allowed

Progress = Callable[[int, int | None], None]

MOST_REDIRECTS: Final = 5
CONNECT_TIMEOUT_S: Final = 10.0
READ_TIMEOUT_S: Final = 30.0


class GuardedTransport(httpx.BaseTransport):
    """Sends each request, redirects too, to the address that was checked, under the name that was written."""

    def __init__(self) -> None:
        # No connection is kept: another host behind the same address must not inherit it.
        limits = httpx.Limits(max_keepalive_connections=0)
        self._inner = httpx.HTTPTransport(trust_env=False, retries=0, limits=limits)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request. Raises: OutboundRefused, OutboundFailed, httpx.TransportError."""
        target = require_allowed(str(request.url))
        pinned = httpx.Request(
            request.method,
            request.url.copy_with(host=str(target.address)),
            headers=request.headers,
            stream=request.stream,
            extensions={**request.extensions, "sni_hostname": target.host},
        )
        return self._inner.handle_request(pinned)

    def close(self) -> None:
        """Close what is open."""
        self._inner.close()


def client(headers: Mapping[str, str] | None = None) -> httpx.Client:
    """Return an HTTP client that goes through the guard; close it after use.

    Raises: OutboundRefused for a header, that is a key that somebody has stored, that HTTP cannot carry.
    """
    if not all(value.isascii() and value.isprintable() for value in (headers or {}).values()):
        raise OutboundRefused(
            _("The stored key has characters that no request can carry, such as a new line. Store it anew."),
            code="key_unusable",
        )
    return httpx.Client(
        transport=GuardedTransport(),
        headers={"User-Agent": "Tuneport", **(headers or {})},
        timeout=httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
        follow_redirects=True,
        max_redirects=MOST_REDIRECTS,
        trust_env=False,
    )


@dataclass(frozen=True)
class Fetched:
    """What a download brought."""

    size_bytes: int
    headers: httpx.Headers


def download(
    http: httpx.Client,
    url: str,
    path: Path,
    *,
    max_bytes: int,
    max_seconds: float,
    headers: Mapping[str, str] | None = None,
    auth: tuple[str, str] | None = None,
    progress: Progress = lambda done, total: None,
) -> Fetched:
    """Write what a URL answers to a new file; `progress` gets the bytes done and, if known, of all, and may raise.

    Raises: OutboundRefused; OutboundFailed for every other end than a whole file of at most `max_bytes`.
    """
    ends_s = time.monotonic() + max_seconds
    asked = {"Accept-Encoding": "identity", **(headers or {})}
    with heard_as_sentences(url), http.stream("GET", url, headers=asked, auth=auth) as answer:
        require_success(answer)
        total = _length(answer)
        if total is not None and total > max_bytes:
            raise too_large(max_bytes)
        done = 0
        with path.open("xb") as file:
            for block in answer.iter_raw():
                done += len(block)
                if done > max_bytes:
                    raise too_large(max_bytes)
                if time.monotonic() > ends_s:
                    raise too_slow()
                file.write(block)
                progress(done, total)
        if total is not None and done != total:
            raise _broken_off()
        return Fetched(done, answer.headers)


def get(http: httpx.Client, url: str, *, max_bytes: int, **options: object) -> httpx.Response:
    """Return a whole, small answer of a URL, whatever its status.

    Raises: OutboundRefused; OutboundFailed if it is over `max_bytes` or does not come.
    """
    with heard_as_sentences(url), http.stream("GET", url, **options) as answer:  # type: ignore[arg-type]
        return _whole(answer, max_bytes)


def post(
    http: httpx.Client, url: str, *, json: object, max_bytes: int, read_timeout_s: float = READ_TIMEOUT_S
) -> httpx.Response:
    """Return what a URL answers to JSON, whatever its status; redirects are not followed, the body is not for others.

    Raises: OutboundRefused; OutboundFailed if the answer is over `max_bytes` or does not come.
    """
    timeout = httpx.Timeout(read_timeout_s, connect=CONNECT_TIMEOUT_S)
    with (
        heard_as_sentences(url),
        http.stream("POST", url, json=json, timeout=timeout, follow_redirects=False) as answer,
    ):
        return _whole(answer, max_bytes)


def deliver(
    http: httpx.Client, url: str, *, content: bytes, read_timeout_s: float = READ_TIMEOUT_S
) -> tuple[int, httpx.Headers]:
    """Post bytes to a URL and return the status and headers of its answer, whose body is not read; no redirects.

    Raises: OutboundRefused; OutboundFailed if no answer comes.
    """
    timeout = httpx.Timeout(read_timeout_s, connect=CONNECT_TIMEOUT_S)
    with (
        heard_as_sentences(url),
        cut_off_after(CONNECT_TIMEOUT_S + read_timeout_s) as extensions,
        http.stream(
            "POST", url, content=content, timeout=timeout, extensions=extensions, follow_redirects=False
        ) as answer,
    ):
        return answer.status_code, answer.headers


def _whole(answer: httpx.Response, max_bytes: int) -> httpx.Response:
    content = b""
    for block in answer.iter_bytes():
        content += block
        if len(content) > max_bytes:
            raise too_large(max_bytes)
    return httpx.Response(answer.status_code, headers=_plain(answer.headers), content=content, request=answer.request)


def _plain(headers: httpx.Headers) -> Sequence[tuple[str, str]]:
    # The content is decoded by now.
    return [(name, value) for name, value in headers.items() if name not in ("content-encoding", "content-length")]


class heard_as_sentences:  # noqa: N801 — a context manager, used like a function
    """Turn what the HTTP client raises into errors of the portal, without the URL: it may hold a signature."""

    def __init__(self, url: str) -> None:
        self.host = httpx.URL(url).host if re.match(r"https?://", url) else ""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, httpx.TooManyRedirects):
            raise OutboundFailed(_("The address leads in circles: too many redirects."), code="redirects") from None
        if isinstance(error, httpx.TimeoutException):
            raise OutboundFailed(
                _("“%(host)s” does not answer. Try again later; without a network nothing can be fetched.")
                % {"host": self.host},
                code="source_too_slow",
            ) from None
        if isinstance(error, (httpx.RemoteProtocolError, httpx.ReadError)):
            raise _broken_off() from None
        if isinstance(error, (httpx.HTTPError, httpx.InvalidURL)):
            raise OutboundFailed(
                _("“%(host)s” cannot be reached. Check the address; without a network nothing can be fetched.")
                % {"host": self.host},
                code="source_unreachable",
            ) from None


def require_success(answer: httpx.Response) -> None:
    """Raise OutboundFailed with a sentence unless the answer is the thing that was asked for."""
    status = answer.status_code
    if status in (200, 206):
        return
    if status in (401, 403):
        message = _("The other side refuses access (HTTP %(status)d). Check the credential and what it may read.")
        raise OutboundFailed(message % {"status": status}, code="access_refused")
    if status in (404, 410):
        message = _("There is nothing at this address (HTTP %(status)d). Check how it is written.")
        raise OutboundFailed(message % {"status": status}, code="source_not_found")
    message = _("The other side answers with an error (HTTP %(status)d). Try again later.")
    raise OutboundFailed(message % {"status": status}, code="source_error")


def too_large(max_bytes: int) -> OutboundFailed:
    """Return the error for a source that is over the limit."""
    message = _("The source is larger than %(limit)s. Split it into smaller files.")
    return OutboundFailed(message % {"limit": filesize(max_bytes)}, code="source_too_large")


def too_slow() -> OutboundFailed:
    """Return the error for a source that takes longer than is waited for."""
    return OutboundFailed(_("The other side sends too slowly. Try again later."), code="source_too_slow")


def _broken_off() -> OutboundFailed:
    return OutboundFailed(_("The other side broke the transfer off. Try again."), code="source_broken_off")


def _length(answer: httpx.Response) -> int | None:
    sent = answer.headers.get("content-length", "")
    return int(sent) if sent.isascii() and sent.isdigit() and len(sent) < 16 else None

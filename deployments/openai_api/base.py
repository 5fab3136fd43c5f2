"""What the views under /v1 share: bearer tokens, JSON bodies of bounded size, and streams of server-sent events."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any, ClassVar

from django.db import Error
from django.http import HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.utils.translation import gettext as _
from rest_framework.exceptions import ParseError
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.request import Request

from deployments import admission
from deployments.inference import AnswerStream
from portal import quotas
from portal.api.views import TeamAPIView
from portal.errors import RateLimited, TooLarge
from portal.models import Quota, Scope
from portal.quotas import Reservation
from portal.rls import team_scope

MAX_BODY_BYTES = 4 * 1024 * 1024


class JSONBody(BaseParser):
    """Reads JSON whatever the content type says, with a bound on size and without NaN and Infinity."""

    media_type = "*/*"

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> Any:
        """Return the decoded body. Raises: TooLarge, ParseError."""
        if parser_context is not None and _announced(parser_context["request"]) > MAX_BODY_BYTES:
            raise TooLarge(_("The body of the request is larger than 4 MB."))
        content = stream.read(MAX_BODY_BYTES + 1)
        if parser_context is not None:  # the request may be looked at once more
            parser_context["request"]._request._body = content
        if len(content) > MAX_BODY_BYTES:
            raise TooLarge(_("The body of the request is larger than 4 MB."))
        try:
            return json.loads(content, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):  # broken UTF-8 and JSON, numbers of thousands of digits, endless nesting
            raise ParseError(_("The body of the request is not valid JSON.")) from None


def _announced(request: Request) -> int:
    """Return how many bytes the body of a request is said to have: what is too much need not be read."""
    length = request.META.get("CONTENT_LENGTH") or "0"
    return int(length) if length.isdecimal() else 0


class AlwaysFirst(BaseContentNegotiation):
    """There is one format for each answer: what the Accept header says is no reason to refuse a request."""

    def select_parser(self, request: Request, parsers: Any) -> Any:
        return parsers[0]

    def select_renderer(self, request: Request, renderers: Any, format_suffix: str | None = None) -> Any:
        return renderers[0], renderers[0].media_type


class OpenAIView(TeamAPIView):
    """A view under /v1. Row scopes are opened for moments only, since an answer takes seconds."""

    scopes: ClassVar[str | dict[str, str]] = Scope.INFERENCE.value
    opens_scope: ClassVar[bool] = False
    most_bytes: ClassVar[int | None] = MAX_BODY_BYTES
    parser_classes = (JSONBody,)
    content_negotiation_class = AlwaysFirst

    counts_at_once: ClassVar[bool] = False  # those that ask a model are counted with their tokens instead
    in_one_transaction: ClassVar[bool] = False  # those that ask no model have the whole handler in the team's scope
    reads_body: ClassVar[bool] = False  # in one transaction: whether POST has a body that is looked at
    _limits: dict[str, str] | None = None

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Let the caller in, and count the request where no model is asked. Raises: RateLimited."""
        super().initial(request, *args, **kwargs)
        if self.counts_at_once:
            self._count_request()
        if self.in_one_transaction:
            # First the body: a slow client must not hold a transaction, nor the row that counts the team's requests.
            _ = request.data if request.method == "POST" and self.reads_body else None
            self._stack.enter_context(team_scope(self.team.pk))
            self.scope_is_open = True

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        """Say how the team stands with its limits; a request that was refused before it was counted counts as well."""
        if self._is_uncounted(request, response):
            with suppress(RateLimited, Error):  # while the database is away, the answer says so already
                self._count_request()
        for name, value in (self._limits or {}).items():
            response.headers.setdefault(name, value)
        return super().finalize_response(request, response, *args, **kwargs)

    def _is_uncounted(self, request: Request, response: Any) -> bool:
        """Whether a caller whom we know was answered before the request was counted; what we failed at is free."""
        if self.is_unconfirmed:
            return False
        # `request.auth` would look the token up a second time where that ended in an error.
        is_known = getattr(request, "_auth", None) is not None
        is_told = self._limits is not None or response.has_header("x-ratelimit-limit-requests")
        return is_known and not is_told and response.status_code < 500

    @property
    def is_unconfirmed(self) -> bool:
        """Whether the token is only remembered so far."""
        recalled = getattr(getattr(self.request, "_request", None), "recalled", None)
        return recalled is not None and not recalled.is_confirmed

    def note_standings(self, reservation: Reservation | None) -> None:
        """Remember how the team stands, for the headers of the answer."""
        if reservation is not None:
            self._limits = admission.headers(reservation.standings)

    def _count_request(self) -> None:
        try:
            amounts = {Quota.REQUESTS_PER_MINUTE: 1, Quota.TOKENS_PER_MINUTE: 0}
            self.note_standings(quotas.reserve(self.team.pk, amounts, hold=False))
        except quotas.Refused as refused:
            self._limits = admission.headers(refused.standings)
            raise quotas.refusal(refused) from None


_encoded = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def json_answer(body: Any) -> HttpResponse:
    """Return an answer as JSON, without the stations of DRF's renderers: hundreds a second are asked for."""
    return HttpResponse(_encoded(body).encode(errors="replace"), content_type="application/json")


def event_stream(frames: AnswerStream) -> HttpResponseBase:
    """Return a response that passes the frames on as they come; closing it closes them."""
    response = StreamingHttpResponse(frames, content_type="text/event-stream; charset=utf-8")
    response["X-Accel-Buffering"] = "no"  # a proxy in front must not collect it
    response["Cache-Control"] = "no-cache, no-store"
    return response


def _refuse_constant(name: str) -> None:
    raise ValueError(name)

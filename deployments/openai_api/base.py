"""What the views under /v1 share: bearer tokens, JSON bodies of bounded size, and streams of server-sent events."""

from __future__ import annotations

import json
import time
from typing import Any, ClassVar

from django.http import HttpResponseBase, StreamingHttpResponse
from django.utils.translation import gettext as _
from rest_framework.exceptions import ParseError
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.request import Request

from deployments.inference import AnswerStream
from portal.api.views import TeamAPIView
from portal.errors import TooLarge
from portal.models import Scope

MAX_BODY_BYTES = 4 * 1024 * 1024


class JSONBody(BaseParser):
    """Reads JSON whatever the content type says, with a bound on size and without NaN and Infinity."""

    media_type = "*/*"

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> Any:
        """Return the decoded body. Raises: TooLarge, ParseError."""
        content = stream.read(MAX_BODY_BYTES + 1)
        if len(content) > MAX_BODY_BYTES:
            raise TooLarge(_("The body of the request is larger than 4 MB."))
        try:
            return json.loads(content, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):  # broken UTF-8 and JSON, numbers of thousands of digits, endless nesting
            raise ParseError(_("The body of the request is not valid JSON.")) from None


class AlwaysFirst(BaseContentNegotiation):
    """There is one format for each answer: what the Accept header says is no reason to refuse a request."""

    def select_parser(self, request: Request, parsers: Any) -> Any:
        return parsers[0]

    def select_renderer(self, request: Request, renderers: Any, format_suffix: str | None = None) -> Any:
        return renderers[0], renderers[0].media_type


class OpenAIView(TeamAPIView):
    """A view under /v1. Row scopes are opened for moments only, since an answer takes seconds."""

    schema = None  # described by OpenAI's own document, not by ours
    scopes: ClassVar[str | dict[str, str]] = Scope.INFERENCE.value
    opens_scope: ClassVar[bool] = False
    parser_classes = (JSONBody,)
    content_negotiation_class = AlwaysFirst

    def dispatch(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        """Answer, and say how long it took (for a stream: until it began)."""
        started = time.monotonic()
        response = super().dispatch(request, *args, **kwargs)
        response["openai-processing-ms"] = str(round((time.monotonic() - started) * 1000))
        return response


def event_stream(frames: AnswerStream) -> HttpResponseBase:
    """Return a response that passes the frames on as they come; closing it closes them."""
    response = StreamingHttpResponse(frames, content_type="text/event-stream; charset=utf-8")
    response["X-Accel-Buffering"] = "no"  # a proxy in front must not collect it
    response["Cache-Control"] = "no-cache, no-store"
    return response


def _refuse_constant(name: str) -> None:
    raise ValueError(name)

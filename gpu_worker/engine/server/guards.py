"""What every request passes before its route: the key, the size of its body, and the error shape."""

import hmac
import json
import logging
import secrets
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gpu_worker.engine.errors import BadRequest, EngineError, InvalidApiKey, RequestTooLarge
from gpu_worker.engine.server.answers import error_response
from gpu_worker.engine.server.metrics import HttpMetrics

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 2 * 2**20
OPEN_ROUTES = frozenset({"/health"})


class Guard:
    """Checks the bearer key, names every response, counts it, and turns stray failures into the error object."""

    def __init__(self, app: ASGIApp, *, api_key: str, metrics: HttpMetrics, routes: frozenset[str]) -> None:
        self._app = app
        self._api_key = api_key.encode()
        self._metrics = metrics
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500
        request_id = secrets.token_hex(8)

        async def named_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            if scope["path"] not in OPEN_ROUTES and not self._is_authorised(scope):
                refusal = InvalidApiKey("The bearer key is missing or wrong.")
                await error_response(refusal)(scope, receive, named_send)
            else:
                await self._app(scope, receive, named_send)
        finally:
            route = scope["path"] if scope["path"] in self._routes else "other"
            self._metrics.responses[route, status] += 1

    def _is_authorised(self, scope: Scope) -> bool:
        given = dict(scope["headers"]).get(b"authorization", b"")
        scheme, _, key = given.partition(b" ")
        # compared in constant time, so that response times say nothing about the key
        return hmac.compare_digest(key.strip(), self._api_key) and scheme.lower() == b"bearer"


async def read_json(request: Request) -> Any:
    """Return the JSON body. Raises: RequestTooLarge before reading more than allowed, BadRequest."""
    declared = request.headers.get("content-length", "0")
    if not declared.isdigit() or int(declared) > MAX_BODY_BYTES:
        raise RequestTooLarge(f"The body must not exceed {MAX_BODY_BYTES} bytes.")
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY_BYTES:
            raise RequestTooLarge(f"The body must not exceed {MAX_BODY_BYTES} bytes.")
    try:
        return json.loads(bytes(body))
    except (ValueError, RecursionError) as error:
        raise BadRequest("The body is not valid JSON.", code="invalid_json") from error


def internal_error(error: Exception) -> EngineError:
    """Return what a client learns of an unforeseen failure: nothing but that it happened."""
    logger.error("unforeseen failure in a request", exc_info=error)
    return EngineError("The engine failed to serve this request.")

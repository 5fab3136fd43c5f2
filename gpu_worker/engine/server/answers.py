"""Send a generation to its client: whole or as server-sent events, and stop it when the client has gone."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from gpu_worker.engine.errors import EngineError
from gpu_worker.engine.server.generation import ChoiceOutput, Generation
from gpu_worker.engine.server.shapes import ChoiceText, Json, Shape

logger = logging.getLogger(__name__)

KEEP_ALIVE_S = 15.0
"""Silence after which a comment line tells proxies that a waiting stream is alive."""

CLIENT_CLOSED_REQUEST = 499
T = TypeVar("T")


class ClientGone(Exception):
    """The client closed the connection before its answer was complete."""


def error_body(error: EngineError) -> Json:
    """Return OpenAI's error object."""
    return {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}


def error_response(error: EngineError) -> Response:
    """Return an error with its status and, where the client should try again, when."""
    retry_after_s = getattr(error, "retry_after_s", None)
    headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    return JSONResponse(error_body(error), status_code=error.status, headers=headers)


async def unless_client_goes(request: Request, work: Awaitable[T]) -> T:
    """Await the work, but cancel it when the client closes the connection. Raises: ClientGone."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        for pending in (task, gone):
            pending.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def whole_answer(generation: Generation, shape: Shape, choices: int) -> Response:
    """Return the complete answer as one JSON object. Raises: GenerationFailed."""
    texts = [ChoiceText() for _ in range(choices)]
    async for added in generation.outputs():
        _append(texts[added.choice], added)
    body = shape.head()
    body["choices"] = [shape.choice(index, text) for index, text in enumerate(texts)]
    body["usage"] = generation.usage().to_dict()
    return JSONResponse(body)


def _append(choice: ChoiceText, added: ChoiceOutput) -> None:
    choice.text += added.output.text
    choice.logprobs.extend(added.output.logprobs)
    choice.finish_reason = added.output.finish_reason


class EventStream(StreamingResponse):
    """A stream of events that tells when it is over: complete, broken, or left by its client."""

    def __init__(self, events: AsyncIterator[bytes], *, finish: Callable[[], None]) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._finish = finish

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events; `finish` is called at the end in any case."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._finish()


async def answer_events(
    generation: Generation, shape: Shape, choices: int, *, include_usage: bool
) -> AsyncIterator[bytes]:
    """Yield a generation as server-sent events, kept alive while it waits; a failure becomes a last frame."""
    events = _events(generation, shape, choices, include_usage=include_usage)
    try:
        async for event in _with_keep_alive(events):
            yield event
    except EngineError as error:
        # the status line has been sent: the client's library learns of the failure from this frame
        yield _frame(error_body(error))


async def _events(generation: Generation, shape: Shape, choices: int, *, include_usage: bool) -> AsyncIterator[bytes]:
    def chunk(piece: Json) -> bytes:
        body = shape.chunk_head() | {"choices": [piece]}
        return _frame(body | {"usage": None} if include_usage else body)

    for index in range(choices):
        if (opening := shape.opening(index)) is not None:
            yield chunk(opening)
    async for added in generation.outputs():
        piece = ChoiceText()
        _append(piece, added)
        if piece.text or piece.logprobs or piece.finish_reason is not None:
            yield chunk(shape.piece(added.choice, piece))
    if include_usage:
        yield _frame(shape.chunk_head() | {"choices": [], "usage": generation.usage().to_dict()})
    yield b"data: [DONE]\n\n"


async def _with_keep_alive(events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Pass events on, with a comment line after every KEEP_ALIVE_S of silence."""
    pending: asyncio.Task[bytes] | None = None
    try:
        while True:
            pending = pending or asyncio.ensure_future(_next(events))
            done, _ = await asyncio.wait({pending}, timeout=KEEP_ALIVE_S)
            if not done:
                yield b": waiting\n\n"
                continue
            finished, pending = pending, None
            try:
                yield finished.result()
            except StopAsyncIteration:
                return
    finally:
        if pending is not None:
            pending.cancel()


async def _next(events: AsyncIterator[bytes]) -> bytes:
    return await anext(events)


def _frame(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"

"""From a model's name to an answer: shared by /v1 and the playground.

No transaction is open while an engine generates. What was answered is counted afterwards, also when the caller hung up
or the engine died; texts are kept only where the team wants that.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db import connection
from django.utils.translation import gettext as _

from deployments import admission, drawing, engine_client
from deployments.engine_connection import CallerGone, Silence
from deployments.known_targets import Target, forget
from deployments.metering import CLIENT_CLOSED_REQUEST, Caller, RequestCount
from deployments.request_log import Heard
from deployments.slots import Slot, slots
from deployments.targets import (
    is_writable,
    model_not_found,
    resolve_adapter,
    resolve_base_model,
)
from deployments.tuned_models import resolve
from portal import stopping
from portal.errors import PortalError, Unavailable, error_body

__all__ = [
    "Admitted",
    "AnswerStream",
    "Caller",
    "Target",
    "admit",
    "complete",
    "counted",
    "is_writable",
    "model_not_found",
    "resolve",
    "resolve_adapter",
    "resolve_base_model",
    "stream",
    "with_system_prompt",
]

PING = b": ping\n\n"
DONE = b"data: [DONE]\n\n"

Body = dict[str, Any]


@dataclass(frozen=True)
class Admitted:
    """A request that was let in: what it asks for, `asked` as the engine gets it, and for whom tokens are set aside."""

    target: Target
    body: Body
    asked: Body
    caller: Caller


def admit(
    target: Target,
    body: Body,
    caller: Caller,
    *,
    memory: admission.Memory | None = None,
    besides: Callable[[Body, int], int] | None = None,
) -> Admitted:
    """Set aside what a checked request (see `openai_api.parameters`) may take, with what is added to it for the engine.

    `besides`: how many tokens will be read besides, of the request as the engine gets it and its likely prompt tokens.
    Raises: as `admission.admit`.
    """
    asked = _engine_body(target, body, caller)
    prompt = admission.likely_prompt_tokens(asked)
    most = prompt + admission.most_written(asked) * admission.answers_of(asked)
    if besides is not None:
        most += besides(asked, prompt)
    return Admitted(target, body, asked, admission.admit(caller, prompt=prompt, most=most, memory=memory))


def complete(request: Admitted, *, then: Callable[[Body], Body] | None = None) -> Body:
    """Return the whole answer to a request, and count it. Raises: PortalError.

    `then` adds to the answer, and to its usage, before it is counted.
    """
    target, caller, asked = request.target, request.caller, request.asked
    count = RequestCount(target, caller, streamed=False, heard=Heard.of(target.log, asked))
    _let_go_of_the_database()
    with _counting_refusals(count), slots.held():
        answer = engine_client.chat(target.engine, asked, path=_path(asked), caller=caller.descriptor)
        count.note_usage(answer)  # it was written, also if what comes behind it fails
        if then is not None:
            answer = then(answer)
            count.note_usage(answer)
    answer = _with_cuts_told(asked, answer)
    if count.heard is not None:
        count.heard.note_answer(answer)
    count.write(200)
    return _public(target, answer)


def stream(request: Admitted) -> AnswerStream:
    """Start a streamed answer; its frames are server-sent events. The request is counted when it is closed.

    Raises: PortalError, as long as nothing was sent.
    """
    target, caller = request.target, request.caller
    asked = {**request.asked, "stream_options": {"include_usage": True}}
    count = RequestCount(target, caller, streamed=True, heard=Heard.of(target.log, asked))
    _let_go_of_the_database(is_long=True)
    wants_usage = bool(request.body.get("stream_options", {}).get("include_usage"))
    with _counting_refusals(count):
        slot = slots.take()
        try:
            events = engine_client.stream_chat(target.engine, asked, path=_path(asked), caller=caller.descriptor)
        except BaseException:
            slot.release()
            raise
    return AnswerStream(target, asked, events, count, slot, wants_usage=wants_usage)


class AnswerStream:
    """The frames of one streamed answer.

    Not a generator: `close` has to count the request also when the caller hung up before the first frame was taken.
    """

    def __init__(
        self,
        target: Target,
        asked: Body,
        events: engine_client.ChatStream,
        count: RequestCount,
        slot: Slot,
        *,
        wants_usage: bool,
    ) -> None:
        self._target = target
        self._asked = asked
        self._events = events
        self._count = count
        self._slot = slot
        self._wants_usage = wants_usage
        self._status = CLIENT_CLOSED_REQUEST  # until the end was reached, whoever closes us has hung up
        self._held: deque[Body | None] = deque()
        self._frames = self._all_frames()
        self._is_closed = self._is_counted = self._is_replaced = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._frames)

    def begun(self) -> AnswerStream:
        """Wait until there is text to send, and return self. Pings are left out until then.

        Raises: PortalError if the answer ends before that; it is counted then.
        """
        try:
            is_begun = False
            while not is_begun:
                _refuse_when_stopping()
                with suppress(Silence):
                    event = self._events.next_event()
                    if event is not None and "error" in event:
                        raise _engine_error(event["error"])
                    self._held.append(event)
                    is_begun = event is None or _has_text(event)
        except CallerGone:
            self.close()
            raise PortalError(_("The client closed the connection."), code="client_closed_request") from None
        except Exception as error:
            self._status = getattr(error, "status", 500)
            self._is_replaced = drawing.is_asked_again(self._target, error)
            self.close()
            if self._status >= 500:
                forget(self._target)
            raise
        return self

    def close(self) -> None:
        """Stop the engine if it still generates, and count the request; a second call does nothing."""
        if not self._is_closed:
            self._is_closed = True
            try:
                self._events.close()
            finally:
                self._slot.release()
                self._write()

    def _write(self) -> None:
        if not self._is_counted:
            self._is_counted = True
            self._count.write(self._status, is_replaced=self._is_replaced)

    def _all_frames(self) -> Iterator[bytes]:
        try:
            while True:
                _refuse_when_stopping()
                try:
                    event = self._held.popleft() if self._held else self._events.next_event()
                except Silence:
                    yield PING
                    continue
                if event is None:
                    break
                yield from self._frames_of(event)
            self._status = 200
            self._write()  # first, so that no answer is complete that a killed server has not counted
            yield DONE
        except CallerGone:
            return
        except PortalError as error:
            # Nothing else tells a client that the answer is incomplete: a stream that just ends looks finished.
            self._status = error.status
            yield _frame(error_body(error.message, kind=error.kind, code=error.code, param=error.param))
            yield DONE

    def _frames_of(self, event: Body) -> Iterator[bytes]:
        if "error" in event:
            raise _engine_error(event["error"])
        self._count.note_chunk(event)
        if self._count.heard is not None:
            self._count.heard.note_chunk(event)
        if not event.get("choices") and not self._wants_usage:
            return
        if self._wants_usage:
            event.setdefault("usage", None)
        else:
            event.pop("usage", None)
        yield _frame(_public(self._target, _with_cuts_told(self._asked, event)))


@contextmanager
def counted(target: Target, caller: Caller) -> Iterator[RequestCount]:
    """Hold a slot for a request that is asked in another way than `complete` does, and count it at its end.

    The block notes the usage. Raises: RateLimited; what the block raises.
    """
    count = RequestCount(target, caller, streamed=False)
    with _counting_refusals(count), slots.held():
        yield count
    count.write(200)


@contextmanager
def _counting_refusals(count: RequestCount) -> Iterator[None]:
    """Count a request that ends before there is an answer."""
    try:
        yield
    except CallerGone:
        count.write(CLIENT_CLOSED_REQUEST)
        raise PortalError(_("The client closed the connection."), code="client_closed_request") from None
    except PortalError as error:
        if error.status >= 500:
            forget(count.target)
        count.write(error.status, is_replaced=drawing.is_asked_again(count.target, error))
        raise


def _let_go_of_the_database(*, is_long: bool = False) -> None:
    """Answers take seconds: hundreds of them must not hold a database connection each.

    To a pool it is given back for every answer; otherwise closing it costs more than a short answer does.
    """
    if not connection.in_atomic_block and (is_long or settings.DATABASE_POOL):
        connection.close()


def _engine_body(target: Target, body: Body, caller: Caller) -> Body:
    """Return the request as the engine wants it: its own name for the model, and what the version adds to requests.

    A version's system prompt and schema stand in for what a request does not bring; its limit of tokens holds always.
    The salt keeps teams apart: no prefix is shared between them, and an engine serves them in turns by it.
    """
    asked = {**body, "model": target.engine_model, "cache_salt": cache_salt(caller)}
    asked.pop("confidence", None)  # the portal's own
    if target.max_tokens is not None:
        asked["max_tokens"] = min(int(body.get("max_tokens") or target.max_tokens), target.max_tokens)
    if target.response_schema is not None and "messages" in body and not body.get("response_format"):
        asked["response_format"] = held_to(target.response_schema)
    return with_system_prompt(target, asked)


def held_to(schema: Mapping[str, Any] | None) -> Body:
    """Return the `response_format` that holds an answer to a schema."""
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}


def cache_salt(caller: Caller) -> str:
    """Return what tells an engine whose request it is: only equal salts share cached prefixes."""
    return f"team-{caller.team.pk}"


def with_system_prompt(target: Target, body: Body) -> Body:
    """Return a request with the version's system prompt in front, unless it brings one or is no conversation."""
    messages = body.get("messages", ())
    if not messages or not target.system_prompt or any(message["role"] == "system" for message in messages):
        return body
    return {**body, "messages": [{"role": "system", "content": target.system_prompt}, *messages]}


def _refuse_when_stopping() -> None:
    if stopping.left_s() == 0:
        raise Unavailable(_("The server is being restarted, so this answer is incomplete. Ask again."))


def _has_text(event: Body) -> bool:
    """Whether a streamed event holds text, or the end of an answer without any."""
    choices = event.get("choices") or ()
    return any(one.get("text") or one.get("delta", {}).get("content") or one.get("finish_reason") for one in choices)


def _path(body: Body) -> str:
    return engine_client.CHAT if "messages" in body else engine_client.COMPLETIONS


def _public(target: Target, answer: Body) -> Body:
    """Return an answer with the name that the caller used; adapters' names stay inside."""
    return {**answer, "model": target.public_name, "system_fingerprint": target.fingerprint}


def _with_cuts_told(asked: Body, answer: Body) -> Body:
    """Return an answer in which what a stop text cut inside a schema is `length`: our engine says so, vLLM `stop`."""
    if not asked.get("stop") or (asked.get("response_format") or {}).get("type", "text") == "text":
        return answer
    choices = [
        {**one, "finish_reason": "length"} if isinstance(one.get("stop_reason"), str) else one
        for one in answer.get("choices", ())
    ]
    return {**answer, "choices": choices}


def _engine_error(error: Any) -> PortalError:
    message = error.get("message") if isinstance(error, dict) else None
    return engine_client.EngineFailed(str(message or _("The model could not answer this request.")))


def _frame(event: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode(errors="replace") + b"\n\n"

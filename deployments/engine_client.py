"""The only client of inference engines (ours, or vLLM behind the same routes).

Every failure becomes one of the portal's errors: what the caller did wrong keeps the engine's words, everything else
is Unavailable with a hint when to try again.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.utils.translation import gettext as _

from deployments.engine_connection import (
    Address,
    Disconnected,
    Exchange,
    Pool,
    Request,
    Silence,
    exchange,
)
from deployments.engine_places import Places
from experiments.scoring.calibration import EXACT
from portal import stopping
from portal.errors import PortalError, Unavailable

# Tokens trickle, so silence is normal for a while; then the portal says ': ping' to keep its own caller's line open.
PING_EVERY_S = 10.0
_CONTROL_TIMEOUT_S = 15.0
_HEALTH_TIMEOUT_S = 5.0
_METRICS_TIMEOUT_S = 2.0
_REST_S = 5  # for an engine that was too slow, before it is asked again
_MAX_ANSWER_BYTES = 32 * 1024 * 1024
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
SCORE = "/v1/score_values"
# What vLLM says of a schema depends on the library that reads it, and on the release.
_SCHEMA_REFUSAL = re.compile(r"json schema|\bgrammar\b|structured output", re.IGNORECASE)

# An engine of ours runs and lets wait about half as many, so its own bounds and fair order decide there.
_places = Places(most=320, share=0.5)
# Our own engine gives up what could not begin within a minute; here that is done for those that do not.
BEGIN_WITHIN_S = 75.0

_pool = Pool()


@dataclass(frozen=True)
class EngineTarget:
    """An engine and how to speak to it.

    `scores_values`: whether it has a route for `score_values`. `weights`: in which it computes the base model.
    """

    url: str
    access_key: str
    scores_values: bool = True
    weights: str = EXACT

    @property
    def address(self) -> Address:
        """Host and port of `url`."""
        parts = urlsplit(self.url)
        return Address(parts.hostname or "", parts.port or 80)

    def request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Request:
        """Return a request that carries the key."""
        headers = {"authorization": f"Bearer {self.access_key}", "accept": "*/*"}
        if body is None:
            return Request(method, path, headers)
        return Request(method, path, headers | {"content-type": "application/json"}, json.dumps(body).encode())


@dataclass(frozen=True)
class ScoredValues:
    """How likely each of some values is (natural logarithms), and how many tokens were read for it."""

    logprobs: list[float]
    tokens: int
    cached_tokens: int


@dataclass(frozen=True)
class Health:
    """What a healthy engine says of itself. `self_check`: how its self-check ended, empty where it has none."""

    self_check: str


class EngineTimeout(PortalError):
    """The engine took longer than the portal waits."""

    code = "timeout"
    status = 504
    kind = "server_error"


class EngineFailed(PortalError):
    """The engine could not answer this request, and would not the next time."""

    code = "generation_failed"
    status = 502
    kind = "server_error"


class AdapterRefused(Exception):
    """The engine will not load this adapter; the text says why."""


def chat(
    target: EngineTarget, body: Mapping[str, Any], *, path: str = CHAT, caller: int | None = None
) -> dict[str, Any]:
    """Return the whole answer to a request. `caller` is the file descriptor on which our own caller waits, if known.

    Raises: PortalError for what the engine refuses, Unavailable, EngineTimeout, CallerGone.
    """
    deadline = time.monotonic() + settings.ENGINE_TIMEOUT_SECONDS
    with (
        _places.at(target.address, _owner(body)),
        _open(target, target.request("POST", path, body), settings.ENGINE_TIMEOUT_SECONDS, caller) as answer,
    ):
        content = _read_all(answer, deadline, caller)
    _raise_for(answer, content)
    return _decoded(content)


def score_values(target: EngineTarget, body: Mapping[str, Any], *, caller: int | None = None) -> ScoredValues:
    """Return how likely an answer of each value is. Raises: as `chat`; PortalError from an engine that cannot score."""
    answer = chat(target, body, path=SCORE, caller=caller)
    logprobs, usage = answer.get("logprobs"), answer.get("usage") or {}
    if not isinstance(logprobs, list) or len(logprobs) != len(body["values"]):
        raise _broken()
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return ScoredValues([float(one) for one in logprobs], int(usage.get("prompt_tokens") or 0), int(cached))


def stream_chat(
    target: EngineTarget, body: Mapping[str, Any], *, path: str = CHAT, caller: int | None = None
) -> ChatStream:
    """Start a streamed answer and return its events; the caller has to close it.

    Raises: as `chat`, as long as the engine refuses before its first byte.
    """
    request = target.request("POST", path, {**body, "stream": True})
    with ExitStack() as stack:
        stack.enter_context(_places.at(target.address, _owner(body)))
        answer = stack.enter_context(_open(target, request, settings.ENGINE_TIMEOUT_SECONDS, caller))
        if answer.status != 200:
            _raise_for(answer, _read_all(answer, time.monotonic() + _CONTROL_TIMEOUT_S, caller))
        return ChatStream(answer, caller, stack.pop_all())
    raise AssertionError("unreachable")


def _owner(body: Mapping[str, Any]) -> str:
    """Return whose request it is: no two teams have one salt for their caches."""
    return str(body.get("cache_salt") or "")


def load_adapter(target: EngineTarget, *, name: str, folder: Path) -> None:
    """Have an adapter loaded under a name. Raises: AdapterRefused with a sentence, Unavailable."""
    _control(target, "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})


def unload_adapter(target: EngineTarget, *, name: str) -> None:
    """Have an adapter unloaded; one that is not there is no error. Raises: AdapterRefused, Unavailable."""
    _control(target, "/v1/unload_lora_adapter", {"lora_name": name}, fine=(404,))


def health_of(target: EngineTarget) -> Health | None:
    """Return what the engine says of itself, None if it does not call itself healthy in time."""
    try:
        with exchange(_pool, target.address, Request("GET", "/health", {}), wait_s=_HEALTH_TIMEOUT_S) as answer:
            content = _read_all(answer, time.monotonic() + _HEALTH_TIMEOUT_S, None)
            if answer.status != 200:
                return None
    except (Disconnected, Silence, PortalError):
        return None
    try:
        told = json.loads(content)
    except ValueError:
        told = None  # vLLM's answer is empty
    result = told.get("self_check") if isinstance(told, dict) else None
    return Health(result if isinstance(result, str) else "")


def metrics_of(target: EngineTarget) -> str | None:
    """Return what the engine says about itself in Prometheus' text format, None if it does not in time."""
    try:
        request = target.request("GET", "/metrics")
        with exchange(_pool, target.address, request, wait_s=_METRICS_TIMEOUT_S) as answer:
            content = _read_all(answer, time.monotonic() + _METRICS_TIMEOUT_S, None)
            return content.decode("utf-8", "replace") if answer.status == 200 else None
    except (Disconnected, Silence, PortalError):
        return None


class ChatStream:
    """The events of a streamed answer, as they arrive."""

    def __init__(self, answer: Exchange, caller: int | None, ending: ExitStack) -> None:
        """`ending` closes the answer and gives its place back."""
        self._ending = ending
        self._has_begun = False
        self._answer = answer
        self._caller = caller
        self._buffer = b""
        self._silent_s = 0.0
        self._is_done = False

    def next_event(self) -> dict[str, Any] | None:
        """Return the next event, None after the last one.

        Raises: Silence about every PING_EVERY_S without a byte, sooner once the process is stopping; CallerGone,
        Unavailable if the connection breaks, the stream ends without its mark or does not begin in time, EngineTimeout
        after ENGINE_TIMEOUT_SECONDS of silence.
        """
        while True:
            block, found, rest = self._buffer.partition(b"\n\n")
            if not found:
                self._read_more()
                continue
            self._buffer = rest
            payload = b"".join(line[5:].strip() for line in block.splitlines() if line.startswith(b"data:"))
            if payload == b"[DONE]":
                self._is_done = True
                return None
            if payload:
                return _decoded(payload)

    def close(self) -> None:
        """Stop reading; an engine that is still generating stops, too."""
        if self._is_done:  # the end of the body follows on the heels of the last event: then the connection is kept
            with suppress(Silence, Disconnected):
                self._answer.connection.receive_part(wait_s=0.05)
        self._ending.close()

    def _read_more(self) -> None:
        left_s = stopping.left_s()
        wait_s = PING_EVERY_S if left_s is None else min(PING_EVERY_S, left_s + 0.01)
        try:
            part = self._answer.connection.receive_part(wait_s=wait_s, caller=self._caller)
        except Silence:
            self._silent_s += wait_s
            if not self._has_begun and self._silent_s >= BEGIN_WITHIN_S:
                busy = _("The model is too busy to begin this answer. Try again in a moment.")
                raise Unavailable(busy, retry_after_s=5) from None
            if self._silent_s >= settings.ENGINE_TIMEOUT_SECONDS:
                raise _timed_out() from None
            raise
        except Disconnected as error:
            raise _broken() from error
        if part is None or len(self._buffer) > _MAX_ANSWER_BYTES:
            raise _broken()
        self._silent_s = 0.0
        self._has_begun = True
        self._buffer += part.replace(b"\r\n", b"\n")


def _open(target: EngineTarget, request: Request, wait_s: float, caller: int | None) -> Exchange:
    try:
        return exchange(_pool, target.address, request, wait_s=wait_s, caller=caller)
    except Disconnected as error:
        raise Unavailable(_("The model's engine cannot be reached. Try again in a moment.")) from error
    except Silence:
        raise _timed_out() from None


def _read_all(answer: Exchange, deadline: float, caller: int | None) -> bytes:
    parts: list[bytes] = []
    size = 0
    try:
        while (part := answer.connection.receive_part(wait_s=_left(deadline), caller=caller)) is not None:
            parts.append(part)
            size += len(part)
            if size > _MAX_ANSWER_BYTES:
                raise _broken()
    except Disconnected as error:
        raise _broken() from error
    except Silence:
        raise _timed_out() from None
    return b"".join(parts)


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.001)


def _control(target: EngineTarget, path: str, body: Mapping[str, Any], *, fine: tuple[int, ...] = ()) -> None:
    with _open(target, target.request("POST", path, body), _CONTROL_TIMEOUT_S, None) as answer:
        content = _read_all(answer, time.monotonic() + _CONTROL_TIMEOUT_S, None)
    error = _error_of(content)
    # A request that was given up too early has done its work all the same.
    if answer.status == 200 or answer.status in fine or _is_loaded_already(error):
        return
    if answer.status == 401 or answer.status >= 500:
        raise Unavailable
    raise AdapterRefused(error.get("message") or f"The engine answered {answer.status}.")


def _raise_for(answer: Exchange, content: bytes) -> None:
    """Turn an engine's refusal into ours."""
    if answer.status == 200:
        return
    error = _error_of(content)
    if answer.status in (400, 413, 422):
        message = error.get("message") or _("The engine cannot answer this request.")
        code = _code_of(error)
        param = error.get("param") or ("response_format" if code == "unsupported_schema" else None)
        raise PortalError(str(message), param=param, code=code)
    if answer.status == 404 and "message" not in error:  # no model is missing, the route is
        raise PortalError(cannot_score(), code="unsupported_model")
    if answer.status in (401, 404):
        # Its key or adapter is not what the portal thinks: it has just been started anew.
        raise Unavailable(_("The model is being loaded. Try again in a moment."), code="model_loading")
    if answer.status in (429, 503):
        after = answer.connection.headers.get("retry-after", "")
        raise Unavailable(retry_after_s=min(int(after), 120) if after.isdecimal() else 1)
    raise EngineFailed(_("The model could not answer this request."))


def cannot_score() -> str:
    """Return the sentence about an engine without probabilities."""
    return _("The machine that serves this model cannot score values.")


def _code_of(error: Mapping[str, Any]) -> str | None:
    """Return the error's code in our words; vLLM repeats the status there and says the rest in its message."""
    code = error.get("code")
    if isinstance(code, str) and code:
        return code
    message = str(error.get("message"))
    if "maximum context length" in message:
        return "context_length_exceeded"
    return "unsupported_schema" if _SCHEMA_REFUSAL.search(message) else None


def _is_loaded_already(error: Mapping[str, Any]) -> bool:
    return error.get("code") == "adapter_exists" or "already been loaded" in str(error.get("message"))


def _error_of(content: bytes) -> dict[str, Any]:
    try:
        body = json.loads(content)
    except ValueError:
        return {}
    error = body.get("error", body) if isinstance(body, dict) else {}  # vLLM's older shape has no "error" around it
    return error if isinstance(error, dict) else {}


def _decoded(content: bytes) -> dict[str, Any]:
    try:
        body = json.loads(content)
    except ValueError as error:
        raise _broken() from error
    if not isinstance(body, dict):
        raise _broken()
    return body


def _broken() -> Unavailable:
    return Unavailable(_("The model's engine stopped while it was answering. Try again in a moment."))


def _timed_out() -> EngineTimeout:
    message = _("The model took too long to answer. Ask for fewer tokens, or try again later.")
    return EngineTimeout(message, headers={"Retry-After": str(_REST_S)})

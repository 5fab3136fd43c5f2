"""From a model's name to an answer: shared by /v1 and the playground.

No transaction is open while an engine generates. What was answered is counted afterwards, also when the caller hung up
or the engine died; texts are never kept.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from django.db import DatabaseError, connection
from django.db.models import F, QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext as _

from deployments import engine_client
from deployments.engine_client import CallerGone, EngineTarget, Silence
from deployments.models import Engine, Placement
from experiments.models import Adapter
from portal.errors import NotFound, PortalError, Unavailable, error_body
from portal.models import BaseModel, Team
from portal.rls import team_scope

logger = logging.getLogger(__name__)
CLIENT_CLOSED_REQUEST = 499
PING = b": ping\n\n"
DONE = b"data: [DONE]\n\n"

Body = dict[str, Any]
Reshape = Callable[[Body], Body]


@dataclass(frozen=True)
class Target:
    """What a model's name stands for at this moment."""

    engine: EngineTarget
    engine_model: str
    public_name: str
    fingerprint: str
    version_id: UUID | None = None
    system_prompt: str = ""


@dataclass(frozen=True)
class Caller:
    """Who asks, for the count, and the connection on which they wait."""

    team: Team
    request_id: str
    token_id: UUID | None = None
    descriptor: int | None = None

    @classmethod
    def of(cls, request: HttpRequest, team: Team) -> Caller:
        """Return the caller behind a page or API request; gunicorn tells us the connection, other servers do not."""
        token = getattr(request, "auth", None)
        connection_of_caller = request.META.get("gunicorn.socket")
        return cls(
            team=team,
            request_id=getattr(request, "request_id", ""),
            token_id=token.pk if token is not None else None,
            descriptor=connection_of_caller.fileno() if connection_of_caller is not None else None,
        )


def resolve(team: Team, name: str) -> Target:
    """Return where to ask for a model: a deployment of the team, or a base model by its id.

    Raises: NotFound with the same words for other teams' models and for names nobody has, Unavailable while the model
    is being loaded, PortalError if its deployment is stopped or cannot be loaded.
    """
    with team_scope(team.pk):
        # One filter, not two: conditions on one version and one deployment belong into one join.
        live = {f"{_LIVE_IN}__name": name, f"{_LIVE_IN}__is_running": True}
        row = _ready(team).filter(**live).values(*_DEPLOYED).first()
        if row is not None:
            return _deployed_target(name, row)
        deployment = team.deployments.select_related("live_version", "next_version").filter(name=name).first()
        if deployment is not None:
            raise _not_served(deployment.is_running, deployment.live_version or deployment.next_version)
    return resolve_base_model(name)


def resolve_adapter(team: Team, adapter: Adapter, public_name: str) -> Target:
    """Return where to ask for an adapter that is placed but not deployed. Raises: Unavailable, PortalError."""
    row = _ready(team).filter(adapter=adapter).values(*_LOADED).first()
    if row is None:
        raise _not_loaded(adapter)
    return Target(_engine(row), adapter.engine_name, public_name, _fingerprint(adapter.sha256))


def resolve_base_model(name: str) -> Target:
    """Return where to ask for an untuned base model. Raises: NotFound, Unavailable."""
    model = BaseModel.objects.filter(slug=name, is_allowed=True).first()
    if model is None:
        raise model_not_found()
    ready = model.engines.filter(status=Engine.Status.READY).order_by(F("node__heartbeat_at").desc(nulls_last=True))
    engine = ready.first()
    if engine is None:
        raise _loading()
    target = EngineTarget(engine.url, engine.access_key)
    return Target(target, model.slug, model.slug, _fingerprint(model.revision))


def model_not_found() -> NotFound:
    """Return the one error for models that do not exist and models of other teams."""
    return NotFound(
        _("This model does not exist, or your team has no access to it."), code="model_not_found", param="model"
    )


def complete(target: Target, body: Body, caller: Caller, *, reshape: Reshape | None = None) -> Body:
    """Return the whole answer to a checked chat request (see `openai_api.parameters`), and count it.

    Raises: PortalError.
    """
    count = _Count(target, caller, streamed=False)
    try:
        answer = engine_client.chat(target.engine, _engine_body(target, body), caller=caller.descriptor)
    except CallerGone:
        count.write(CLIENT_CLOSED_REQUEST)
        raise PortalError(_("The client closed the connection."), code="client_closed_request") from None
    except PortalError as error:
        count.write(error.status)
        raise
    count.note_usage(answer)
    count.write(200)
    answer = _public(target, answer)
    return reshape(answer) if reshape else answer


def stream(target: Target, body: Body, caller: Caller, *, reshape: Reshape | None = None) -> AnswerStream:
    """Start a streamed answer; its frames are server-sent events. The request is counted when it is closed.

    Raises: PortalError, as long as nothing was sent.
    """
    count = _Count(target, caller, streamed=True)
    if not connection.in_atomic_block:
        connection.close()  # answers take seconds: hundreds of them must not hold a database connection each
    wants_usage = bool(body.get("stream_options", {}).get("include_usage"))
    asked = _engine_body(target, {**body, "stream_options": {"include_usage": True}})
    try:
        events = engine_client.stream_chat(target.engine, asked, caller=caller.descriptor)
    except CallerGone:
        count.write(CLIENT_CLOSED_REQUEST)
        raise PortalError(_("The client closed the connection."), code="client_closed_request") from None
    except PortalError as error:
        count.write(error.status)
        raise
    return AnswerStream(target, events, count, wants_usage=wants_usage, reshape=reshape)


class AnswerStream:
    """The frames of one streamed answer.

    Not a generator: `close` has to count the request also when the caller hung up before the first frame was taken.
    """

    def __init__(
        self,
        target: Target,
        events: engine_client.ChatStream,
        count: _Count,
        *,
        wants_usage: bool,
        reshape: Reshape | None,
    ) -> None:
        self._target = target
        self._events = events
        self._count = count
        self._wants_usage = wants_usage
        self._reshape = reshape
        self._status = CLIENT_CLOSED_REQUEST  # until the end was reached, whoever closes us has hung up
        self._frames = self._all_frames()
        self._is_closed = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._frames)

    def close(self) -> None:
        """Stop the engine if it still generates, and count the request; a second call does nothing."""
        if not self._is_closed:
            self._is_closed = True
            self._events.close()
            self._count.write(self._status)

    def _all_frames(self) -> Iterator[bytes]:
        try:
            while True:
                try:
                    event = self._events.next_event()
                except Silence:
                    yield PING
                    continue
                if event is None:
                    break
                yield from self._frames_of(event)
            self._status = 200
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
        if not event.get("choices") and not self._wants_usage:
            return
        if self._wants_usage:
            event.setdefault("usage", None)
        else:
            event.pop("usage", None)
        event = _public(self._target, event)
        yield _frame(self._reshape(event) if self._reshape else event)


@dataclass
class _Count:
    """Counts and times of one request, written once."""

    target: Target
    caller: Caller
    streamed: bool
    started: float = field(default_factory=time.monotonic)
    first_token_ms: int | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def note_usage(self, answer: Mapping[str, Any]) -> None:
        """Take over the engine's count of tokens."""
        usage = answer.get("usage") or {}
        self.prompt_tokens = int(usage.get("prompt_tokens") or 0)
        self.completion_tokens = int(usage.get("completion_tokens") or 0)

    def note_chunk(self, event: Mapping[str, Any]) -> None:
        """Note a streamed event: the time of the first text, and usage, counting chunks until the engine has told."""
        if event.get("usage"):
            self.note_usage(event)
        elif any(choice.get("delta", {}).get("content") for choice in event.get("choices", [])):
            self.completion_tokens += 1
            if self.first_token_ms is None:
                self.first_token_ms = self._elapsed_ms()

    def write(self, status: int) -> None:
        """Store the request. A database that is away costs the count, not the answer."""
        try:
            with team_scope(self.caller.team.pk):
                with connection.cursor() as cursor:
                    # A crash of the server may lose the last half second of counts; waiting for the disk would cost
                    # every single answer.
                    cursor.execute("SET LOCAL synchronous_commit TO off")
                self.caller.team.inferencerecords.create(
                    version_id=self.target.version_id,
                    model=self.target.public_name[:120],
                    token_id=self.caller.token_id,
                    request_id=self.caller.request_id[:64],
                    streamed=self.streamed,
                    status=status,
                    prompt_tokens=self.prompt_tokens,
                    completion_tokens=self.completion_tokens,
                    first_token_ms=self.first_token_ms,
                    duration_ms=self._elapsed_ms(),
                )
        except DatabaseError:
            logger.exception("request %s was answered with %d but not counted", self.caller.request_id, status)

    def _elapsed_ms(self) -> int:
        return round((time.monotonic() - self.started) * 1000)


_LIVE_IN = "adapter__deployment_versions__live_in"
_LOADED = ("node__engines__url", "node__engines__access_key")
_DEPLOYED = (
    *_LOADED,
    "adapter_id",
    "adapter__sha256",
    "adapter__deployment_versions__id",
    "adapter__deployment_versions__system_prompt",
)


def _ready(team: Team) -> QuerySet[Placement]:
    """Return loaded placements whose engine answers, the node heard from last first.

    Whether a node is live is not asked: while the database was away nobody could say so, yet engines went on serving.
    """
    return team.placements.filter(
        status=Placement.Status.READY,
        node__engines__base_model=F("adapter__base_model"),
        node__engines__status=Engine.Status.READY,
    ).order_by(F("node__heartbeat_at").desc(nulls_last=True))


def _engine(row: Mapping[str, Any]) -> EngineTarget:
    return EngineTarget(row["node__engines__url"], row["node__engines__access_key"])


def _deployed_target(name: str, row: Mapping[str, Any]) -> Target:
    return Target(
        engine=_engine(row),
        engine_model=Adapter(id=row["adapter_id"]).engine_name,
        public_name=name,
        fingerprint=_fingerprint(row["adapter__sha256"]),
        version_id=row["adapter__deployment_versions__id"],
        system_prompt=row["adapter__deployment_versions__system_prompt"],
    )


def _not_served(is_running: bool, version: Any) -> PortalError:
    if not is_running:
        return PortalError(
            _("This deployment is stopped. Start it to use it again."), code="deployment_stopped", param="model"
        )
    return _not_loaded(version.adapter) if version is not None else _loading()


def _not_loaded(adapter: Adapter) -> PortalError:
    failed = adapter.placements.filter(status=Placement.Status.FAILED).first()
    if failed is None:
        return _loading()
    return Unavailable(
        _("The model could not be loaded: %(reason)s") % {"reason": failed.error},
        code="model_not_loaded",
        retry_after_s=30,
    )


def _loading() -> Unavailable:
    return Unavailable(_("The model is being loaded. Try again in a moment."), code="model_loading")


def _fingerprint(digest: str) -> str:
    return f"fp_{digest[:12]}"


def _engine_body(target: Target, body: Body) -> Body:
    """Return the request as the engine wants it: its own name for the model, and the version's system prompt."""
    messages = body["messages"]
    if target.system_prompt and not any(message["role"] == "system" for message in messages):
        messages = [{"role": "system", "content": target.system_prompt}, *messages]
    return {**body, "model": target.engine_model, "messages": messages}


def _public(target: Target, answer: Body) -> Body:
    """Return an answer with the name that the caller used; adapters' names stay inside."""
    return {**answer, "model": target.public_name, "system_fingerprint": target.fingerprint}


def _engine_error(error: Any) -> PortalError:
    message = error.get("message") if isinstance(error, dict) else None
    return engine_client.EngineFailed(str(message or _("The model could not answer this request.")))


def _frame(event: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"

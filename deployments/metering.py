"""Who asked, and what it took: one row for each request to a model, with counts and times, never text."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from django.db import DatabaseError, connection
from django.http import HttpRequest

from deployments.targets import Target
from portal.models import Team
from portal.rls import team_scope

logger = logging.getLogger(__name__)


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


@dataclass
class RequestCount:
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
        elif any(choice.get("text") or choice.get("delta", {}).get("content") for choice in event.get("choices", [])):
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

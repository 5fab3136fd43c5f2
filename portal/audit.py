"""Writing the audit trail: what was done, what data were read, and what was refused."""

from __future__ import annotations

import hashlib
import logging
import time
from collections import OrderedDict
from typing import TYPE_CHECKING
from uuid import UUID

from django.db import DatabaseError, models, transaction

from portal.models import AuditEvent

if TYPE_CHECKING:
    from portal.actors import Actor
    from portal.models import Team

logger = logging.getLogger(__name__)

Detail = str | int | float | bool | None
# Refusals that this process has noted already; spares the database during a flood. The unique key is what counts.
_noted: OrderedDict[str, None] = OrderedDict()
_NOTED_AT_MOST = 10_000


def record(
    team: Team | None,
    actor: Actor,
    action: str,
    subject: models.Model | None = None,
    *,
    outcome: str = AuditEvent.Outcome.DONE,
    **detail: Detail,
) -> None:
    """Add one event, in the transaction of the action itself. `detail` holds ids and numbers, never prompts or rows.

    `action` is a key of `portal.audit_actions`.
    """
    _event(team.pk if team else None, actor, action, subject, outcome, detail).save(force_insert=True)


def read(team: Team | None, actor: Actor, action: str, subject: models.Model | None = None, **detail: Detail) -> None:
    """Note that somebody was shown a team's data, or took them away: one event for each request."""
    record(team, actor, action, subject, outcome=AuditEvent.Outcome.READ, **detail)


def denied(
    actor: Actor,
    action: str,
    *,
    route: str,
    team_id: UUID | None = None,
    subject: models.Model | None = None,
    **detail: Detail,
) -> None:
    """Note that somebody was refused: at most one event for each doer, route and minute, so that a flood stays small.

    Its own transaction; an answer that refuses is never spoilt by a trail that cannot be written.
    """
    key = _once_key(actor, action, route)
    if key in _noted:
        return
    event = _event(team_id, actor, action, subject, AuditEvent.Outcome.DENIED, {"route": route, **detail})
    event.once_key = key
    try:
        with transaction.atomic():
            AuditEvent.objects.bulk_create([event], ignore_conflicts=True)
    except DatabaseError:
        logger.exception("a refusal could not be noted: %s on %s", action, route)
        return
    _noted[key] = None
    if len(_noted) > _NOTED_AT_MOST:
        _noted.popitem(last=False)


def _once_key(actor: Actor, action: str, route: str) -> str:
    doer = actor.token.pk if actor.token else actor.user.pk if actor.user else actor.ip or ""
    minute = int(time.time() // 60)
    return hashlib.sha256(f"{doer}|{action}|{route}|{minute}".encode()).hexdigest()


def _event(
    team_id: UUID | None,
    actor: Actor,
    action: str,
    subject: models.Model | None,
    outcome: str,
    detail: dict[str, Detail],
) -> AuditEvent:
    return AuditEvent(
        team_id=team_id,
        user_id=actor.user.pk if actor.user else None,
        impersonator_id=actor.impersonator.pk if actor.impersonator else None,
        actor=actor.label[:254],
        token_id=actor.token.pk if actor.token else None,
        action=action,
        object_type=subject._meta.model_name or "" if subject else "",
        object_id=str(subject.pk) if subject else "",
        object_name=one_line(str(subject))[:200] if subject else "",
        ip=actor.ip,
        request_id=actor.request_id[:64],
        outcome=outcome,
        detail=detail,
    )


def one_line(text: str) -> str:
    """Return a name in which nothing can pretend to be another line: control characters become spaces."""
    return "".join(character if character.isprintable() else " " for character in text)

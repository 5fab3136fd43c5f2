"""Writing the audit trail."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import models

from portal.models import AuditEvent

if TYPE_CHECKING:
    from portal.actors import Actor
    from portal.models import Team


def record(
    team: Team | None,
    actor: Actor,
    action: str,
    subject: models.Model | None = None,
    *,
    outcome: str = "done",
    **detail: str | int | float | bool | None,
) -> None:
    """Add one event, in the transaction of the action itself. `detail` holds ids and numbers, never prompts or rows."""
    AuditEvent.objects.create(
        team_id=team.pk if team else None,
        user_id=actor.user.pk if actor.user else None,
        actor=actor.label[:254],
        token_id=actor.token.pk if actor.token else None,
        action=action,
        object_type=subject._meta.model_name or "" if subject else "",
        object_id=str(subject.pk) if subject else "",
        object_name=str(subject)[:200] if subject else "",
        ip=actor.ip,
        request_id=actor.request_id[:64],
        outcome=outcome,
        detail=detail,
    )

"""What was done with a deployment, by whom and why: for its page, and for the audit trail at the same time."""

from __future__ import annotations

from typing import Any

from django.utils.translation import gettext as _

from deployments.models import Deployment, DeploymentEvent
from portal import audit
from portal.actors import Actor
from portal.errors import InvalidInput

MAX_REASON = 300


def note(
    deployment: Deployment,
    actor: Actor,
    action: str,
    *,
    version: int | None = None,
    before: int | None = None,
    reason: str = "",
    **detail: Any,
) -> None:
    """Write down one thing that was done, in its own transaction. `action` is one of the audit trail's."""
    told: dict[str, Any] = {"version": version, "reason": reason or None}
    known = {name: value for name, value in told.items() if value is not None}
    if action == "deployment.promoted":
        known["before"] = before
    audit.record(deployment.team, actor, action, deployment, **known, **detail)
    DeploymentEvent(
        team=deployment.team,
        deployment=deployment,
        action=action,
        version=version,
        before=before,
        person=actor.user,
        actor=actor.label[:254],
        reason=reason,
    ).save(force_insert=True)


def clean_reason(text: str) -> str:
    """Return a reason on one line. Raises: InvalidInput if it is too long."""
    cleaned = audit.one_line(" ".join(text.split()))
    if len(cleaned) > MAX_REASON:
        raise InvalidInput(_("A reason may have up to %(most)d characters.") % {"most": MAX_REASON}, param="reason")
    return cleaned

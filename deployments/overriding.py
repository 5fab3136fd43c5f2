"""Letting a version answer that the gate holds back: for an admin who says why, and it is written down."""

from __future__ import annotations

from django.utils.translation import gettext as _

from deployments import gate, history
from deployments.models import Deployment, DeploymentVersion
from portal.access import may_administer
from portal.actors import Actor
from portal.errors import Forbidden, InvalidInput


def require_leave(
    deployment: Deployment,
    version: DeploymentVersion,
    judgement: gate.Judgement,
    actor: Actor,
    *,
    reason: str,
    override: bool,
) -> None:
    """Refuse a version that is held back by what was judged, unless an admin of the team overrides it; note that.

    Raises: HeldBack with the rules that fail, Forbidden, InvalidInput for an override without a reason.
    """
    if judgement.has_passed:
        return
    if not override:
        raise gate.HeldBack(
            _("The gate holds version %(number)d back. %(rules)s.")
            % {"number": version.number, "rules": judgement.sentence},
            param="version",
        )
    if not may_administer(deployment.team, actor):
        raise Forbidden(_("Only an admin of the team may let a version answer that the gate holds back."))
    if not reason:
        raise InvalidInput(_("Say why this version shall answer although the gate holds it back."), param="reason")
    rules = ", ".join(sorted({rule.code for rule in judgement.failed}))
    history.note(deployment, actor, "deployment.gate_overridden", version=version.number, reason=reason, rules=rules)

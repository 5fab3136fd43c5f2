"""A canary: one version that answers a share of the requests to a deployment's plain name beside the live version.

One that the gate holds back needs an admin and a reason, as if it took over; what only lacks requests to be measured
does not: a canary is how it gets them. It ends when it is taken back, when
another version takes over the name (be it the canary itself), and when the deployment is stopped.
"""

from __future__ import annotations

from typing import Final

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from deployments import gate, history, overriding, placing
from deployments.models import Deployment, DeploymentVersion
from portal.actors import Actor
from portal.errors import IllegalTransition, InvalidInput

LEAST_SHARE: Final = 1
MOST_SHARE: Final = 50


@transaction.atomic
def set_canary(
    *, version: DeploymentVersion, actor: Actor, share: int, reason: str = "", override: bool = False
) -> Deployment:
    """Let a version answer `share` per cent of the requests to its deployment's plain name, or change its share.

    With `override` an admin of the team lets one answer that the gate holds back, or answer more, and says why. The
    adapter is loaded; until then, and whenever it fails, the live version answers.
    Raises: InvalidInput; HeldBack with the rules that fail, Forbidden; IllegalTransition if the deployment is stopped
    or has no live version, if this version answers already or is about to, or if there is another canary.
    """
    if not LEAST_SHARE <= share <= MOST_SHARE:
        raise InvalidInput(
            _("A canary gets %(least)d to %(most)d per cent of the requests.")
            % {"least": LEAST_SHARE, "most": MOST_SHARE},
            param="share",
        )
    reason = history.clean_reason(reason)
    deployment = _locked(version.deployment)
    before = deployment.canary_share
    judgement = gate.judge(deployment, version)
    known = judgement.measured  # a canary is how what lacks requests gets them
    if deployment.canary_version_id == version.pk:
        if before is not None and share > before:
            overriding.require_leave(deployment, version, known, actor, reason=reason, override=override)
        if before != share:
            deployment.canary_share = share
            deployment.save(update_fields=["canary_share"])
            history.note(
                deployment, actor, "deployment.canary_changed", version=version.number, reason=reason,
                share=share, share_before=before,
            )  # fmt: skip
        return deployment
    _require_startable(deployment, version)
    overriding.require_leave(deployment, version, known, actor, reason=reason, override=override)
    placing.ensure_placement(adapter=version.adapter)
    deployment.canary_version, deployment.canary_share, deployment.canary_since = version, share, timezone.now()
    deployment.save(update_fields=["canary_version", "canary_share", "canary_since"])
    broken = ", ".join(sorted({rule.code for rule in judgement.failed}))
    history.note(
        deployment, actor, "deployment.canary_started", version=version.number, reason=reason,
        share=share, rules_broken=broken,
    )  # fmt: skip
    return deployment


@transaction.atomic
def take_back(*, deployment: Deployment, actor: Actor, reason: str = "") -> Deployment:
    """Let the live version answer all requests again. A second call changes nothing."""
    reason = history.clean_reason(reason)
    deployment = _locked(deployment)
    end(deployment, actor, reason=reason)
    return deployment


def end(deployment: Deployment, actor: Actor, *, reason: str = "") -> None:
    """End the canary of a locked deployment, if it has one; answers that it is writing are written to their end."""
    version = deployment.canary_version
    if version is None:
        return
    deployment.canary_version = deployment.canary_share = deployment.canary_since = None
    deployment.save(update_fields=["canary_version", "canary_share", "canary_since"])
    placing.drain(version.adapter)
    history.note(deployment, actor, "deployment.canary_ended", version=version.number, reason=reason)


def _require_startable(deployment: Deployment, version: DeploymentVersion) -> None:
    if not deployment.is_running:
        raise IllegalTransition(_("This deployment is stopped. Start it to use it again."), code="deployment_stopped")
    if deployment.live_version_id is None:
        raise IllegalTransition(
            _("Nothing answers under this name yet, so there is nothing to try a version beside. Wait until it does."),
            code="no_live_version",
        )
    if version.pk in (deployment.live_version_id, deployment.next_version_id):
        raise IllegalTransition(
            _("Version %(number)d answers all requests already, or is about to. Choose another version.")
            % {"number": version.number},
            code="version_is_live",
            param="version",
        )
    if deployment.canary_version is not None:
        raise IllegalTransition(
            _("Version %(number)d is the canary already, and there is one at a time. Take it back first.")
            % {"number": deployment.canary_version.number},
            code="canary_exists",
            param="version",
        )


def _locked(deployment: Deployment) -> Deployment:
    team = deployment.team
    return team.deployments.select_for_update(of=("self",)).select_related("team").get(pk=deployment.pk)

"""What people may do with deployments: deploy a run, promote a version, stop, start and delete.

Each function is one transaction in the row scope of the team, and leaves a trace in the audit trail.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from deployments import lifecycle, placing
from deployments.models import Deployment, DeploymentVersion, Placement
from deployments.prompts import common_system_prompt
from experiments.models import Adapter, Run
from portal import audit, quotas
from portal.actors import Actor
from portal.errors import IllegalTransition, InvalidInput
from portal.models import BaseModel, Quota, Team

PLAYGROUND_STAY = timedelta(minutes=30)
MAX_SYSTEM_PROMPT = 20_000
_NAME = re.compile(r"[A-Za-z0-9_-]{1,60}\Z")


@transaction.atomic
def deploy_run(*, team: Team, actor: Actor, run: Run, name: str, system_prompt: str | None = None) -> DeploymentVersion:
    """Put a run's adapter behind a name: a new deployment, or the next version of an existing one.

    It goes live as soon as its adapter is loaded; until then an earlier version goes on answering. Without
    `system_prompt` it gets the one that all training rows had, so that the model is asked as it was taught.
    Deploying the newest version once more makes no second one.
    Raises: InvalidInput for a name that cannot be used, IllegalTransition if the run has left no adapter,
    QuotaExceeded if a new name would be one too many.
    """
    name = _checked_name(name)
    adapter = _adapter_of(run)
    if system_prompt is None:
        system_prompt = common_system_prompt(run.dataset_version)
    if len(system_prompt) > MAX_SYSTEM_PROMPT:
        raise InvalidInput(_("The system prompt is longer than 20,000 characters."), param="system_prompt")
    if not team.deployments.filter(name=name).exists():
        quotas.require_room(team, Quota.DEPLOYMENTS, team.deployments.count)
    deployment, made = team.deployments.get_or_create(name=name, defaults={"created_by": actor.user})
    deployment = _locked(deployment)
    newest = deployment.versions.order_by("-number").first()
    if newest is None or (newest.adapter_id, newest.system_prompt) != (adapter.pk, system_prompt):
        newest = deployment.versions.create(
            team=team,
            number=newest.number + 1 if newest else 1,
            adapter=adapter,
            system_prompt=system_prompt,
            created_by=actor.user,
        )
        action = "deployment.created" if made else "deployment.version_added"
        audit.record(team, actor, action, deployment, version=newest.number, run=str(run.pk))
    if not deployment.is_running:
        _set_running(deployment, True, actor)
    _go_live(deployment, newest, actor)
    return newest


@transaction.atomic
def promote_version(*, version: DeploymentVersion, actor: Actor) -> Deployment:
    """Let a version answer; promoting an earlier one is how to roll back.

    The switch happens when the version's adapter is loaded; until then the present one goes on answering.
    """
    deployment = _locked(version.deployment)
    if deployment.is_running:
        _go_live(deployment, version, actor)
    elif deployment.live_version_id != version.pk:
        lifecycle.put_live(deployment, version, actor)
    return deployment


@transaction.atomic
def stop_deployment(*, deployment: Deployment, actor: Actor) -> Deployment:
    """Answer no more requests under this name; nothing is lost. A second call changes nothing."""
    deployment = _locked(deployment)
    if deployment.is_running:
        _set_running(deployment, False, actor)
        if deployment.live_version is not None:
            placing.drain(deployment.live_version.adapter)
    return deployment


@transaction.atomic
def start_deployment(*, deployment: Deployment, actor: Actor) -> Deployment:
    """Answer again under this name, as soon as the adapter is loaded. A second call changes nothing."""
    deployment = _locked(deployment)
    if not deployment.is_running:
        _set_running(deployment, True, actor)
        for version in filter(None, (deployment.live_version, deployment.next_version)):
            placing.ensure_placement(adapter=version.adapter)
    return deployment


@transaction.atomic
def delete_deployment(*, deployment: Deployment, actor: Actor) -> None:
    """Delete a deployment and its versions; runs and adapters stay, and so do the counts of answered requests."""
    deployment = _locked(deployment)
    audit.record(deployment.team, actor, "deployment.deleted", deployment)
    if deployment.live_version is not None:
        placing.drain(deployment.live_version.adapter)
    deployment.live_version = deployment.next_version = None
    deployment.save(update_fields=["live_version", "next_version"])
    deployment.delete()


def stop_all_deployments(team: Team, actor: Actor) -> None:
    """Stop every deployment of a team that is being closed. Call it in a scope that sees the team's rows."""
    for deployment in team.deployments.filter(is_running=True):
        stop_deployment(deployment=deployment, actor=actor)


@transaction.atomic
def ensure_placement(*, adapter: Adapter, wanted_until: datetime | None = None) -> Placement:
    """Have an adapter loaded, for the playground half an hour from now; use renews it. See `placing`."""
    return placing.ensure_placement(
        adapter=adapter, wanted_until=wanted_until if wanted_until is not None else timezone.now() + PLAYGROUND_STAY
    )


def _go_live(deployment: Deployment, version: DeploymentVersion, actor: Actor) -> None:
    """Switch to `version` if it is loaded, else note that it is next; asking for the live one cancels a wait."""
    placement = placing.ensure_placement(adapter=version.adapter)
    if deployment.live_version_id == version.pk:
        deployment.next_version = None
        deployment.save(update_fields=["next_version"])
    elif placement.status == Placement.Status.READY:
        lifecycle.put_live(deployment, version, actor)
    elif deployment.next_version_id != version.pk:
        deployment.next_version = version
        deployment.save(update_fields=["next_version"])
        audit.record(deployment.team, actor, "deployment.promotion_started", deployment, version=version.number)


def _set_running(deployment: Deployment, is_running: bool, actor: Actor) -> None:
    deployment.is_running = is_running
    deployment.save(update_fields=["is_running"])
    audit.record(deployment.team, actor, "deployment.started" if is_running else "deployment.stopped", deployment)


def _locked(deployment: Deployment) -> Deployment:
    """Return the row as it is now, locked until the transaction ends."""
    team = deployment.team
    return team.deployments.select_for_update(of=("self",)).select_related("team").get(pk=deployment.pk)


def _checked_name(name: str) -> str:
    name = name.strip()
    if not _NAME.match(name):
        raise InvalidInput(
            _("A deployment's name has 1 to 60 Latin letters, digits, hyphens or underscores, such as demo-triage."),
            param="name",
        )
    if BaseModel.objects.filter(slug__iexact=name).exists():
        raise InvalidInput(_("This is the name of a base model. Choose another one."), param="name")
    return name


def _adapter_of(run: Run) -> Adapter:
    adapter: Adapter | None = getattr(run, "adapter", None)
    if adapter is None:
        raise IllegalTransition(
            _("This run has no adapter to deploy. Wait until it has finished."), code="run_has_no_adapter", param="run"
        )
    return adapter

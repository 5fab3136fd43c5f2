"""What people may do with deployments: deploy a run, promote a version, stop, start and delete.

Each function is one transaction in the row scope of the team, and leaves a trace in the audit trail.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from deployments import canaries, gate, history, lifecycle, overriding, placing
from deployments.decidable import Decidable, decidable
from deployments.models import Deployment, DeploymentVersion, Placement, today
from deployments.prompts import common_system_prompt
from experiments import kept
from experiments.models import Adapter, Run
from portal import audit, quotas
from portal.actors import Actor
from portal.errors import IllegalTransition, InvalidInput
from portal.models import BaseModel, Quota, Team

PLAYGROUND_STAY = timedelta(minutes=30)
MAX_SYSTEM_PROMPT = 20_000
MAX_ANSWER_TOKENS = 32_768
LONGEST_SLEEP_MINUTES = 7 * 24 * 60
_NAME = re.compile(r"[A-Za-z0-9_-]{1,60}\Z")


@dataclass(frozen=True)
class VersionSettings:
    """What a version has besides its adapter. `system_prompt` None: the one that all training rows had."""

    system_prompt: str | None = None
    response_schema: dict[str, Any] | None = None
    thresholds: dict[str, float] = field(default_factory=dict)
    max_tokens: int | None = None


@transaction.atomic
def deploy_run(
    *,
    team: Team,
    actor: Actor,
    run: Run,
    name: str,
    step: int | None = None,
    system_prompt: str | None = None,
    response_schema: dict[str, Any] | None = None,
    thresholds: dict[str, float] | None = None,
    max_tokens: int | None = None,
    note: str = "",
) -> DeploymentVersion:
    """Put a run's adapter behind a name: a new deployment, or the next version of an existing one.

    It goes live as soon as its adapter is loaded; until then an earlier version goes on answering. If the team's gate
    holds it back, it is kept as a version that does not answer. Without `system_prompt` it gets the one that all
    training rows had, so that the model is asked as it was taught. What its decisions rest on is taken from the run
    (`decidable`). Deploying the newest version once more makes no second one. `step`: a checkpoint that the run has
    kept, instead of its result.
    Raises: InvalidInput for a name or setting that cannot be used, IllegalTransition if the run has left no adapter,
    NotFound if it has kept nothing at the step, QuotaExceeded if a new name or adapter would be one too many.
    """
    name, note = _checked_name(name), history.clean_reason(note)
    adapter = _adapter_of(run) if step is None else kept.adapter_of(run, step)
    settings = _checked_settings(
        run, VersionSettings(system_prompt, response_schema, dict(thresholds or {}), max_tokens)
    )
    decides = decidable(adapter, settings.response_schema)
    if not team.deployments.filter(name=name).exists():
        quotas.require_room(team, Quota.DEPLOYMENTS, team.deployments.count)
    deployment, made = team.deployments.get_or_create(name=name, defaults={"created_by": actor.user})
    deployment = _locked(deployment)
    newest = deployment.versions.order_by("-number").first()
    if newest is None or not _is_same(newest, adapter, settings, decides):
        newest = deployment.versions.create(
            team=team,
            number=newest.number + 1 if newest else 1,
            adapter=adapter,
            created_by=actor.user,
            note=note,
            system_prompt=settings.system_prompt or "",
            response_schema=settings.response_schema,
            decision_schema=decides.schema,
            labels=decides.labels,
            temperatures=decides.temperatures,
            fitted_under=decides.fitted_under,
            thresholds=settings.thresholds,
            max_tokens=settings.max_tokens,
        )
        action = "deployment.created" if made else "deployment.version_added"
        history.note(deployment, actor, action, version=newest.number, reason=note, run=str(run.pk))
    if not deployment.is_running:
        _set_running(deployment, True, actor)
    judgement = gate.judge(deployment, newest)
    if judgement.has_passed:
        _go_live(deployment, newest, actor, reason=note)
    else:
        history.note(deployment, actor, "deployment.held_back", version=newest.number, reason=judgement.sentence[:300])
    return newest


@transaction.atomic
def promote_version(
    *, version: DeploymentVersion, actor: Actor, reason: str = "", override: bool = False
) -> Deployment:
    """Let a version answer; promoting an earlier one is how to roll back.

    The switch happens when the version's adapter is loaded; until then the present one goes on answering. With
    `override` an admin of the team lets one answer that the gate holds back, and says why.
    Raises: HeldBack with the rules that fail, Forbidden, InvalidInput for an override without a reason.
    """
    deployment = _locked(version.deployment)
    reason = history.clean_reason(reason)
    judgement = gate.judge(deployment, version)
    overriding.require_leave(deployment, version, judgement, actor, reason=reason, override=override)
    if deployment.is_running:
        _go_live(deployment, version, actor, reason=reason)
    elif deployment.live_version_id != version.pk:
        lifecycle.put_live(deployment, version, actor, reason=reason)
    return deployment


@transaction.atomic
def stop_deployment(*, deployment: Deployment, actor: Actor) -> Deployment:
    """Answer no more requests under this name; nothing is lost but a canary. A second call changes nothing."""
    deployment = _locked(deployment)
    if deployment.is_running:
        canaries.end(deployment, actor)
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
def wake_deployment(*, deployment: Deployment, actor: Actor) -> Deployment:
    """Load a sleeping deployment's adapter before the next request asks for it, and keep it awake for its minutes.

    Raises: IllegalTransition if it is stopped.
    """
    deployment = _locked(deployment)
    if not deployment.is_running:
        raise IllegalTransition(_("This deployment is stopped. Start it to use it again."), code="deployment_stopped")
    slept = deployment.may_rest
    _keep_awake(deployment)
    if deployment.live_version is not None:
        placing.ensure_placement(adapter=deployment.live_version.adapter)
    if slept:
        history.note(deployment, actor, "deployment.woken")
    return deployment


@transaction.atomic
def set_sleep(*, deployment: Deployment, actor: Actor, minutes: int | None) -> Deployment:
    """Say after how many minutes without a request its adapter is unloaded; None: never. A request wakes it.

    Raises: InvalidInput.
    """
    if minutes is not None and not 1 <= minutes <= LONGEST_SLEEP_MINUTES:
        raise InvalidInput(
            _("Choose 1 to %(most)d minutes.") % {"most": LONGEST_SLEEP_MINUTES}, param="sleep_after_minutes"
        )
    deployment = _locked(deployment)
    if deployment.sleep_after_minutes != minutes:
        deployment.sleep_after_minutes = minutes
        deployment.save(update_fields=["sleep_after_minutes"])
        history.note(deployment, actor, "deployment.sleep_changed", minutes=minutes)
    _keep_awake(deployment)
    return deployment


@transaction.atomic
def set_retirement(*, deployment: Deployment, actor: Actor, last_day: date | None) -> Deployment:
    """Say on which day a deployment answers for the last time, which /v1/models tells its callers; None: no end.

    Raises: InvalidInput for a day that is over.
    """
    if last_day is not None and last_day < today():
        raise InvalidInput(_("This day is over. Stop the deployment to end it at once."), param="retires_on")
    deployment = _locked(deployment)
    if deployment.retires_on != last_day:
        deployment.retires_on = last_day
        deployment.save(update_fields=["retires_on"])
        told = last_day.isoformat() if last_day is not None else None
        history.note(deployment, actor, "deployment.retirement_changed", last_day=told)
    return deployment


@transaction.atomic
def delete_deployment(*, deployment: Deployment, actor: Actor) -> None:
    """Delete a deployment and its versions; runs and adapters stay, and so do the counts of answered requests."""
    deployment = _locked(deployment)
    audit.record(deployment.team, actor, "deployment.deleted", deployment)
    for version in filter(None, (deployment.live_version, deployment.canary_version)):
        placing.drain(version.adapter)
    deployment.live_version = deployment.next_version = None
    deployment.canary_version = deployment.canary_share = deployment.canary_since = None
    deployment.save()
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


def _go_live(deployment: Deployment, version: DeploymentVersion, actor: Actor, *, reason: str) -> None:
    """Switch to `version` if it is loaded, else note that it is next; asking for the live one cancels a wait."""
    _keep_awake(deployment)
    placement = placing.ensure_placement(adapter=version.adapter)
    if deployment.live_version_id == version.pk:
        deployment.next_version = None
        deployment.save(update_fields=["next_version"])
    elif placement.status == Placement.Status.READY:
        lifecycle.put_live(deployment, version, actor, reason=reason)
    elif deployment.next_version_id != version.pk:
        deployment.next_version = version
        deployment.save(update_fields=["next_version"])
        history.note(deployment, actor, "deployment.promotion_started", version=version.number, reason=reason)


def _keep_awake(deployment: Deployment) -> None:
    if deployment.sleep_after_minutes is not None:
        deployment.awake_until = timezone.now() + timedelta(minutes=deployment.sleep_after_minutes)
        deployment.save(update_fields=["awake_until"])


def _set_running(deployment: Deployment, is_running: bool, actor: Actor) -> None:
    deployment.is_running = is_running
    deployment.save(update_fields=["is_running"])
    if is_running:
        _keep_awake(deployment)
    history.note(deployment, actor, "deployment.started" if is_running else "deployment.stopped")


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


def _checked_settings(run: Run, given: VersionSettings) -> VersionSettings:
    """Return the settings as they are kept. Raises: InvalidInput naming the setting."""
    prompt = given.system_prompt
    if prompt is None:
        prompt = common_system_prompt(run.dataset_version)
    if len(prompt) > MAX_SYSTEM_PROMPT:
        raise InvalidInput(_("The system prompt is longer than 20,000 characters."), param="system_prompt")
    if given.max_tokens is not None and not 1 <= given.max_tokens <= MAX_ANSWER_TOKENS:
        raise InvalidInput(
            _("An answer may have 1 to %(most)d tokens.") % {"most": MAX_ANSWER_TOKENS}, param="max_tokens"
        )
    for name, least in given.thresholds.items():
        if not isinstance(least, int | float) or isinstance(least, bool) or not 0 <= least <= 1 or len(name) > 200:
            raise InvalidInput(
                _("The least confidence of %(field)s has to lie between 0 and 1.") % {"field": name[:60]},
                param="thresholds",
            )
    return VersionSettings(prompt, given.response_schema, given.thresholds, given.max_tokens)


def _is_same(version: DeploymentVersion, adapter: Adapter, settings: VersionSettings, decides: Decidable) -> bool:
    before = VersionSettings(version.system_prompt, version.response_schema, version.thresholds, version.max_tokens)
    return version.adapter_id == adapter.pk and before == settings and Decidable.of(version) == decides


def _adapter_of(run: Run) -> Adapter:
    adapter: Adapter | None = getattr(run, "adapter", None)
    if adapter is None:
        raise IllegalTransition(
            _("This run has no adapter to deploy. Wait until it has finished."), code="run_has_no_adapter", param="run"
        )
    return adapter

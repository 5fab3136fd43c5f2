"""What a model's name stands for: which engine serves it, and under which name that engine knows it."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db import connection
from django.db.models import F, QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from deployments import placing
from deployments.decidable import fitted_of
from deployments.engine_client import EngineTarget
from deployments.known_targets import (
    Canary,
    Target,
    TextLog,
    keep_canary,
    keep_version,
    known_canary,
    known_version,
    remember,
)
from deployments.models import Deployment, DeploymentVersion, Engine, Placement
from experiments.models import Adapter
from portal.errors import NotFound, PortalError, Unavailable
from portal.models import Team
from portal.rls import fetch_in_team, team_scope

_LOADED = tuple(f"node__engines__{name}" for name in ("url", "access_key", "scores_values", "weights"))
# name@v2 asks for one version, whichever answers under the name; no name of a deployment or base model holds an @.
_PINNED = re.compile(r"(?P<name>[A-Za-z0-9_-]{1,60})@v(?P<number>[1-9][0-9]{0,8})\Z")
# Who wakes a model waits about as long as loading an adapter takes. Not all threads may wait: then there is an error
# with a time to come back.
WAKE_PATIENCE_S = 10.0
_LOOK_EVERY_S = 0.1
_MOST_WAITING = 8
_waiting = threading.BoundedSemaphore(_MOST_WAITING)
# A version that is called by its number stays loaded for as long after each request.
PINNED_STAY = timedelta(minutes=30)
# How often a request renews the time until which a deployment is awake: it is one row for all requests.
_RENEW_EVERY = timedelta(seconds=20)


def resolve(team: Team, name: str) -> Target:
    """Return where to ask for a model: a deployment of the team, one version of it (name@v2), or a base model.

    Which version is live is read each time, so stopping and promoting take effect with the next request. A request
    wakes a deployment that sleeps, and waits for it a moment.
    Raises: NotFound with the same words for other teams' models and for names nobody has, Unavailable while the model
    is being loaded, PortalError if its deployment is stopped or cannot be loaded.
    """
    if not is_writable(name):
        raise model_not_found()
    rows = [] if _PINNED.match(name) else fetch_in_team(team.pk, _LOOK_UP, [team.pk, name])
    if rows and (settled := _settled(team, name, *rows[0])) is not None:
        return settled
    if not rows and not _PINNED.match(name):
        return resolve_base_model(name, team=team)
    deadline = time.monotonic() + WAKE_PATIENCE_S
    while True:
        with team_scope(team.pk):
            found = _named(team, name)
            if found is None:
                break
            target = _deployed_target(team, found)
        if not isinstance(target, Unavailable):
            return target
        if not found.may_wait or target.code != "model_loading" or time.monotonic() > deadline:
            raise target
        _wait_a_moment(target)
    return resolve_base_model(name)


# Most requests ask a running deployment whose version is known: one round trip says whether it is still that one.
_LOOK_UP = """
    SELECT id, live_version_id, is_running AND sleep_after_minutes IS NULL
            AND coalesce(retires_on >= (now() AT TIME ZONE 'UTC')::date, true),
        logs_text, log_days, format('d%%s%%s', ctid, xmin), canary_version_id, canary_share
    FROM deployments_deployment WHERE team_id = %s AND name = %s
"""


def _settled(
    team: Team,
    name: str,
    deployment_id: UUID,
    version_id: UUID | None,
    is_plain: bool,
    logs_text: bool,
    log_days: int,
    stamp: str,
    canary_id: UUID | None,
    share: int | None,
) -> Target | None:
    """Return the target of a deployment that was looked up a moment ago, if it is plain; else None.

    `is_plain`: it runs, never sleeps, and its last day is not over.
    """
    known = known_version(version_id) if version_id is not None and is_plain else None
    if known is None or known.target is None:
        return None
    log, until = TextLog(deployment_id, log_days) if logs_text else None, known.until
    target = replace(known.target, public_name=name, log=log)
    if canary_id is not None:
        beside = known_canary(canary_id)
        if beside is None:
            return None
        target, until = _with_canary(target, beside.target, share), min(until, beside.until)
    remember(team, name, target, stamp, until=until)
    return target


def _with_canary(target: Target, canary: Target | None, share: int | None) -> Target:
    """Return a target with a canary beside it that is called by the same name; without one that is not loaded."""
    if canary is None or share is None:
        return target
    named = replace(canary, public_name=target.public_name, log=target.log, is_canary=True)
    return replace(target, canary=Canary(named, share))


def when_loaded(resolving: Callable[[], Target]) -> Target:
    """Return what `resolving` returns, which is asked for a moment again while it says that a model is being loaded."""
    deadline = time.monotonic() + WAKE_PATIENCE_S
    while True:
        try:
            return resolving()
        except Unavailable as error:
            if error.code != "model_loading" or time.monotonic() > deadline:
                raise
            _wait_a_moment(error)


def _wait_a_moment(otherwise: Unavailable) -> None:
    if not _waiting.acquire(blocking=False):
        raise otherwise
    try:
        time.sleep(_LOOK_EVERY_S)
    finally:
        _waiting.release()


def resolve_adapter(team: Team, adapter: Adapter, public_name: str, *, system_prompt: str = "") -> Target:
    """Return where to ask for an adapter that is placed but not deployed; call it in the team's row scope.

    Raises: Unavailable while it is being loaded or if it cannot be.
    """
    row = _ready(team).filter(adapter=adapter).values(*_LOADED).first()
    if row is None:
        raise _not_loaded(adapter)
    fingerprint = _fingerprint(adapter.sha256)
    return Target(_engine(row), adapter.engine_name, public_name, fingerprint, system_prompt=system_prompt)


def resolve_base_model(name: str, *, team: Team | None = None) -> Target:
    """Return where to ask for an untuned base model. Raises: NotFound, Unavailable.

    `team` has no deployment of this name: then it can be recalled for that team.
    """
    with connection.cursor() as cursor:
        cursor.execute(_BASE_MODEL, [name])
        row = cursor.fetchone()
    if row is None:
        raise model_not_found()
    slug, revision, stamp, *engine = row
    if engine[0] is None:
        raise _loading()
    target = Target(EngineTarget(*engine), slug, slug, _fingerprint(revision))
    if team is not None:
        remember(team, name, target, stamp)
    return target


# Base models and engines are nobody's in particular, so no scope is needed.
_BASE_MODEL = """
    SELECT model.slug, model.revision, format('b%%s%%s', model.ctid, model.xmin),
        engine.url, engine.access_key, engine.scores_values, engine.weights
    FROM portal_basemodel model
    LEFT JOIN deployments_engine engine ON engine.base_model_id = model.id AND engine.status = 'ready'
    LEFT JOIN portal_node node ON node.id = engine.node_id
    WHERE model.slug = %s AND model.is_allowed
    ORDER BY node.heartbeat_at DESC NULLS LAST LIMIT 1
"""


def is_writable(name: str) -> bool:
    """Return whether a model could have this name: the database takes no NUL, not even to look for it."""
    return "\0" not in name


def model_not_found() -> NotFound:
    """Return the one error for models that do not exist and models of other teams."""
    return NotFound(
        _("This model does not exist, or your team has no access to it."), code="model_not_found", param="model"
    )


def refuse_retired(deployment: Deployment) -> None:
    """Raises: NotFound if a deployment's last day is over."""
    if deployment.is_retired:
        raise NotFound(
            _("This model was retired: %(day)s was its last day.") % {"day": deployment.retires_on},
            code="model_retired",
            param="model",
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
    return EngineTarget(*(row[name] for name in _LOADED))


@dataclass(frozen=True)
class _Named:
    """The deployment behind a name, and which of its versions is asked for."""

    deployment: Deployment
    version_id: UUID | None
    public_name: str
    is_pinned: bool

    @property
    def may_wait(self) -> bool:
        """Whether it is unloaded while nobody asks, so that a request may have to wait for it."""
        return self.is_pinned or self.deployment.sleep_after_minutes is not None

    @property
    def log(self) -> TextLog | None:
        """Whether and where the team keeps what is asked and answered."""
        one = self.deployment
        return TextLog(one.pk, one.log_days) if one.logs_text else None


_ASKED = (
    "team_id", "name", "is_running", "live_version_id", "sleep_after_minutes", "awake_until", "logs_text", "log_days",
    "canary_version_id", "canary_share", "retires_on",
)  # fmt: skip


def _named(team: Team, name: str) -> _Named | None:
    pinned = _PINNED.match(name)
    deployments = team.deployments.only(*_ASKED)
    if pinned is None:
        deployment = deployments.filter(name=name).first()
        return _Named(deployment, deployment.live_version_id, name, False) if deployment is not None else None
    deployment = deployments.filter(name=pinned["name"]).first()
    if deployment is None:
        return None
    version_id = deployment.versions.filter(number=int(pinned["number"])).values_list("pk", flat=True).first()
    return _Named(deployment, version_id, name, True) if version_id is not None else None


def _deployed_target(team: Team, found: _Named) -> Target | Unavailable:
    """Return where to ask, or why it has to be loaded first; the wish that it be loaded must not be rolled back."""
    refuse_retired(found.deployment)
    if not found.deployment.is_running:
        raise PortalError(
            _("This deployment is stopped. Start it to use it again."), code="deployment_stopped", param="model"
        )
    was_asleep = _keep_awake(team, found)
    if found.version_id is None:
        following = team.deploymentversions.select_related("adapter").filter(next_in=found.deployment.pk).first()
        raise _not_loaded(following.adapter) if following is not None else _loading()
    known = known_version(found.version_id)
    if known is not None and known.target is not None and not was_asleep:
        return _beside_canary(team, replace(known.target, public_name=found.public_name, log=found.log), found)
    version = _version(team, found.version_id)
    try:
        target = _version_target(team, version, found)
    except Unavailable as error:
        if found.may_wait and error.code == "model_loading":
            _wake(version, found)
            return error
        raise
    if found.is_pinned:
        _wake(version, found)
    keep_version(version.pk, target)
    return _beside_canary(team, target, found)


def _version(team: Team, version_id: UUID) -> DeploymentVersion:
    rows: QuerySet[DeploymentVersion] = team.deploymentversions.all()
    return rows.select_related("adapter__team", "adapter__base_model").get(pk=version_id)


def _version_target(team: Team, version: DeploymentVersion, found: _Named) -> Target:
    """Return where to ask for a version, with what it adds to requests. Raises: Unavailable."""
    return replace(
        resolve_adapter(team, version.adapter, found.public_name, system_prompt=version.system_prompt),
        version_id=version.pk,
        response_schema=version.response_schema,
        # Versions of before this was kept apart decided by the schema of their answers.
        decision_schema=version.decision_schema or (None if version.labels else version.response_schema),
        labels=version.labels,
        temperatures=version.temperatures,
        fitted=fitted_of(version),
        thresholds=version.thresholds,
        max_tokens=version.max_tokens,
        log=found.log,
        pinned_name=f"{found.deployment.name}@v{version.number}",
    )


def _beside_canary(team: Team, target: Target, found: _Named) -> Target:
    """Return a live version's target with the deployment's canary, if it has one and that is loaded."""
    canary_id = found.deployment.canary_version_id
    if found.is_pinned or canary_id is None:
        return target
    known = known_canary(canary_id)
    if known is None:
        try:
            canary: Target | None = _version_target(team, _version(team, canary_id), found)
        except Unavailable:
            canary = None
        known = keep_canary(canary_id, canary)
    return _with_canary(target, known.target, found.deployment.canary_share)


def _keep_awake(team: Team, found: _Named) -> bool:
    """Renew the time until which a deployment is awake, now and then; return whether it slept."""
    minutes, until = found.deployment.sleep_after_minutes, found.deployment.awake_until
    if minutes is None or found.is_pinned:
        return False
    now = timezone.now()
    renewed = now + timedelta(minutes=minutes)
    if until is None or renewed - until > _RENEW_EVERY:
        team.deployments.filter(pk=found.deployment.pk).update(awake_until=renewed)
    return until is None or until <= now


def _wake(version: DeploymentVersion, found: _Named) -> None:
    stay = timezone.now() + PINNED_STAY if found.is_pinned else None
    placing.ensure_placement(adapter=version.adapter, wanted_until=stay)


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

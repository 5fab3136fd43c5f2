"""What a model's name stands for: which engine serves it, and under which name that engine knows it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from django.db.models import F, QuerySet
from django.utils.translation import gettext as _

from deployments.engine_client import EngineTarget
from deployments.models import Engine, Placement
from experiments.models import Adapter
from portal.errors import NotFound, PortalError, Unavailable
from portal.models import BaseModel, Team
from portal.rls import team_scope

# Where a version is loaded changes only when a node or an engine fails, so it need not be asked for each request.
KNOWN_FOR_S = 1.0
_MOST_KNOWN = 10_000
_LOADED = ("node__engines__url", "node__engines__access_key")


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
class _Known:
    target: Target
    until: float


_known: dict[UUID, _Known] = {}


def resolve(team: Team, name: str) -> Target:
    """Return where to ask for a model: a deployment of the team, or a base model by its id.

    Which version is live is read each time, so stopping and promoting take effect with the next request.
    Raises: NotFound with the same words for other teams' models and for names nobody has, Unavailable while the model
    is being loaded, PortalError if its deployment is stopped or cannot be loaded.
    """
    if not is_writable(name):
        raise model_not_found()
    with team_scope(team.pk):
        found = team.deployments.filter(name=name).values_list("is_running", "live_version_id").first()
        if found is not None:
            return _deployed_target(team, name, *found)
    return resolve_base_model(name)


def resolve_adapter(team: Team, adapter: Adapter, public_name: str, *, system_prompt: str = "") -> Target:
    """Return where to ask for an adapter that is placed but not deployed; call it in the team's row scope.

    Raises: Unavailable while it is being loaded or if it cannot be.
    """
    row = _ready(team).filter(adapter=adapter).values(*_LOADED).first()
    if row is None:
        raise _not_loaded(adapter)
    fingerprint = _fingerprint(adapter.sha256)
    return Target(_engine(row), adapter.engine_name, public_name, fingerprint, system_prompt=system_prompt)


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


def is_writable(name: str) -> bool:
    """Return whether a model could have this name: the database takes no NUL, not even to look for it."""
    return "\0" not in name


def model_not_found() -> NotFound:
    """Return the one error for models that do not exist and models of other teams."""
    return NotFound(
        _("This model does not exist, or your team has no access to it."), code="model_not_found", param="model"
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


def _deployed_target(team: Team, name: str, is_running: bool, version_id: UUID | None) -> Target:
    if not is_running:
        raise PortalError(
            _("This deployment is stopped. Start it to use it again."), code="deployment_stopped", param="model"
        )
    if version_id is None:
        following = team.deploymentversions.select_related("adapter").filter(next_in__name=name).first()
        raise _not_loaded(following.adapter) if following is not None else _loading()
    known = _known.get(version_id)
    if known is not None and time.monotonic() < known.until:
        return known.target
    version = team.deploymentversions.select_related("adapter").get(pk=version_id)
    target = resolve_adapter(team, version.adapter, name, system_prompt=version.system_prompt)
    target = replace(target, version_id=version_id)
    if len(_known) > _MOST_KNOWN:
        _known.clear()
    _known[version_id] = _Known(target, time.monotonic() + KNOWN_FOR_S)
    return target


def forget(target: Target) -> None:
    """Look again where a version is loaded: its engine did not answer as it should."""
    if target.version_id is not None:
        _known.pop(target.version_id, None)


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

"""How a deployment stands, in one word and one sentence, for pages and the API."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from django.db.models import QuerySet

from deployments.models import Deployment, DeploymentVersion, Placement
from portal.models import Team


class State(StrEnum):
    """The words that pages and the API use."""

    READY = "ready"
    PENDING = "pending"
    FAILED = "failed"
    STOPPED = "stopped"
    ASLEEP = "asleep"


@dataclass(frozen=True)
class Standing:
    """A deployment's state. `is_settled`: nothing will change by itself, so nobody needs to look again soon."""

    state: State
    error: str = ""
    is_switching: bool = False

    @property
    def is_settled(self) -> bool:
        """Whether looking again soon would show the same."""
        return self.state != State.PENDING and not (self.is_switching and not self.error)


def standing_of(deployment: Deployment) -> Standing:
    """Return how one deployment stands."""
    return standings(deployment.team, [deployment])[deployment]


def canary_standing(deployment: Deployment) -> Standing | None:
    """Return how the adapter of a deployment's canary stands, None without a canary."""
    canary = deployment.canary_version
    if canary is None:
        return None
    return _state_of(canary, {canary.adapter_id: list(deployment.team.placements.filter(adapter=canary.adapter_id))})


def standings(team: Team, deployments: Iterable[Deployment]) -> dict[Deployment, Standing]:
    """Return how a team's deployments stand, with one query for all."""
    return standings_among(team.placements.all(), deployments)


def standings_among(placements: QuerySet[Placement], deployments: Iterable[Deployment]) -> dict[Deployment, Standing]:
    """Return how deployments stand whose adapters are loaded by some of these placements, with one query for all."""
    deployments = list(deployments)
    adapters = {version.adapter_id for deployment in deployments for version in _versions(deployment)}
    placed: dict[object, list[Placement]] = {}
    for placement in placements.filter(adapter_id__in=adapters):
        placed.setdefault(placement.adapter_id, []).append(placement)
    return {deployment: _standing(deployment, placed) for deployment in deployments}


def _standing(deployment: Deployment, placed: dict[object, list[Placement]]) -> Standing:
    if not deployment.is_running or deployment.is_retired:
        return Standing(State.STOPPED)
    live, following = deployment.live_version, deployment.next_version
    of_live = _state_of(live, placed) if live is not None else Standing(State.PENDING)
    if deployment.may_rest and live is not None and of_live.state == State.PENDING:
        of_live = Standing(State.ASLEEP)
    if following is None:
        return of_live
    of_next = _state_of(following, placed)
    if live is None:
        return of_next
    return Standing(of_live.state, of_live.error or of_next.error, is_switching=True)


def _state_of(version: DeploymentVersion, placed: dict[object, list[Placement]]) -> Standing:
    placements = placed.get(version.adapter_id, [])
    statuses = {placement.status for placement in placements}
    if Placement.Status.READY in statuses:
        return Standing(State.READY)
    if Placement.Status.PENDING in statuses or not placements:
        return Standing(State.PENDING)
    return Standing(State.FAILED, error=placements[0].error)


def _versions(deployment: Deployment) -> list[DeploymentVersion]:
    return [version for version in (deployment.live_version, deployment.next_version) if version is not None]

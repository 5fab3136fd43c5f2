"""Targets that this process found a moment ago, so that most requests need not look for theirs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from deployments.engine_client import EngineTarget
from deployments.fitted import Fitted
from portal.models import Team

# Where a version is loaded changes only when a node or an engine fails, so it need not be asked for each request.
KNOWN_FOR_S = 1.0
_MOST_KNOWN = 10_000


@dataclass(frozen=True)
class Target:
    """What a model's name stands for at this moment."""

    engine: EngineTarget
    engine_model: str
    public_name: str
    fingerprint: str
    version_id: UUID | None = None
    system_prompt: str = ""
    response_schema: dict[str, Any] | None = None
    decision_schema: dict[str, Any] | None = None
    labels: Sequence[str] = ()
    temperatures: Mapping[str, float] = field(default_factory=dict)
    fitted: Fitted = field(default_factory=Fitted)
    thresholds: Mapping[str, float] = field(default_factory=dict)
    max_tokens: int | None = None
    log: TextLog | None = None
    pinned_name: str = ""  # of the version
    canary: Canary | None = None
    is_canary: bool = False
    is_instead: bool = False  # asked because the canary could not answer


@dataclass(frozen=True)
class Canary:
    """A loaded version that answers `share` per cent of the requests to a name beside the live one (`drawing`)."""

    target: Target
    share: int


@dataclass(frozen=True)
class TextLog:
    """That texts are kept, with which deployment, and for how many days."""

    deployment_id: UUID
    days: int


@dataclass(frozen=True)
class Recalled:
    """What a name stood for a moment ago: still true if the row behind the name is the same (`deployments_admit`)."""

    target: Target
    stamp: str
    until: float


@dataclass(frozen=True)
class Known:
    """Where a version is loaded, until when that need not be asked again. No target: a canary that is not loaded."""

    target: Target | None
    until: float


_recent: dict[tuple[UUID, str], Recalled] = {}
_versions: dict[UUID, Known] = {}
_canaries: dict[UUID, Known] = {}


def recall(team: Team, name: str) -> Recalled | None:
    """Return what this process found under the name within KNOWN_FOR_S, else None."""
    recalled = _recent.get((team.pk, name))
    return recalled if recalled is not None and time.monotonic() < recalled.until else None


def remember(team: Team, name: str, target: Target, stamp: str, *, until: float | None = None) -> None:
    """Keep what a name of a team stands for: as long as anything is kept, or `until` (time.monotonic())."""
    if len(_recent) >= _MOST_KNOWN:
        _recent.clear()
    _recent[team.pk, name] = Recalled(target, stamp, time.monotonic() + KNOWN_FOR_S if until is None else until)


def known_version(version_id: UUID) -> Known | None:
    """Return where a version was found within KNOWN_FOR_S, else None."""
    return _fresh(_versions, version_id)


def keep_version(version_id: UUID, target: Target) -> None:
    """Keep where a version is loaded."""
    _keep(_versions, version_id, target)


def known_canary(version_id: UUID) -> Known | None:
    """Return where a canary was looked for within KNOWN_FOR_S, else None."""
    return _fresh(_canaries, version_id)


def keep_canary(version_id: UUID, target: Target | None) -> Known:
    """Keep where a canary is loaded, or that it is not; return what is kept."""
    return _keep(_canaries, version_id, target)


def forget(target: Target) -> None:
    """Look again where a version is loaded: its engine did not answer as it should."""
    _recent.clear()
    if target.version_id is not None:
        _versions.pop(target.version_id, None)
        # A canary that fails rests for a moment, so that not each request is asked twice.
        if target.is_canary:
            keep_canary(target.version_id, None)


def _fresh(kept: Mapping[UUID, Known], version_id: UUID) -> Known | None:
    known = kept.get(version_id)
    return known if known is not None and time.monotonic() < known.until else None


def _keep(kept: dict[UUID, Known], version_id: UUID, target: Target | None) -> Known:
    if len(kept) > _MOST_KNOWN:
        kept.clear()
    known = kept[version_id] = Known(target, time.monotonic() + KNOWN_FOR_S)
    return known

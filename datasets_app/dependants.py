"""What hangs below a version: runs, their adapters, and the deployments that answer with them.

The rooms above report it (`report_by`, in `ready()`), so that none of them is imported here. The dataset's picture is
drawn from it, and a version that something hangs on is not deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from portal.models import Team


@dataclass(frozen=True)
class Dependant:
    """One thing below a version; `above` is the key of what it hangs on within its room's answer, or None.

    `view` and `pk` lead to its page; `holds` tells whether the version must stay because of it.
    """

    version_id: UUID
    key: str
    above: str | None
    kind: Literal["run", "adapter", "deployment"]
    label: str
    status: str
    view: str
    pk: UUID
    holds: bool = False


Reporter = Callable[[Team, Collection[UUID]], Iterable[Dependant]]
_reporters: list[Reporter] = []


def report_by(reporter: Reporter) -> None:
    """Have `reporter(team, version ids)` asked for what hangs below versions. Call it in `ready()`."""
    if reporter not in _reporters:
        _reporters.append(reporter)


def below(team: Team, version_ids: Collection[UUID]) -> list[Dependant]:
    """Return what hangs below the versions, runs first. Call it in the team's row scope."""
    return [one for reporter in _reporters for one in reporter(team, version_ids)] if version_ids else []


def holding(team: Team, version_ids: Collection[UUID]) -> list[Dependant]:
    """Return what would lose its ground if the versions were deleted."""
    return [one for one in below(team, version_ids) if one.holds]

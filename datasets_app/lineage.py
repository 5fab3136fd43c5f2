"""Where everything comes from, as one picture: files → versions → runs → adapters → deployments."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from datasets_app import dependants
from datasets_app.dependants import Dependant
from datasets_app.models import Dataset, DatasetVersion

RUNS_SHOWN: Final = 4
VERSIONS_SHOWN: Final = 40


@dataclass
class RunLine:
    """A run with the adapter that it left and the deployments that answer with it."""

    run: Dependant
    adapter: Dependant | None = None
    deployments: list[Dependant] = field(default_factory=list)


@dataclass
class Stop:
    """One version in the picture; `branches` are the lines of versions that leave the main line here."""

    version: DatasetVersion
    files: list[str]
    changes: str
    runs: list[RunLine]
    more_runs: int
    branches: list[list[Stop]]


def picture(dataset: Dataset) -> list[list[Stop]]:
    """Return lines of versions, each from its first version on; call it in the team's row scope."""
    versions = list(
        dataset.versions(manager="with_deleted").defer("report").prefetch_related("sources").order_by("-number")
    )
    shown = _worth_showing(versions)[:VERSIONS_SHOWN]
    known = {version.pk for version in shown}
    children: dict[UUID | None, list[DatasetVersion]] = defaultdict(list)
    for version in reversed(shown):
        children[version.parent_id if version.parent_id in known else None].append(version)
    runs = _run_lines(dependants.below(dataset.team, known))
    return [_line(root, children, runs) for root in children[None]]


def _worth_showing(versions: list[DatasetVersion]) -> list[DatasetVersion]:
    """Leave out deleted versions, except those that a living one comes from; `versions` are the newest first."""
    needed: set[UUID | None] = set()
    kept = []
    for version in versions:
        if version.deleted_at is None or version.pk in needed:
            kept.append(version)
            needed.add(version.parent_id)
    return kept


def _line(
    first: DatasetVersion, children: Mapping[UUID | None, list[DatasetVersion]], runs: Mapping[UUID, list[RunLine]]
) -> list[Stop]:
    """Follow the newest child of each version; its other children begin lines of their own."""
    stops: list[Stop] = []
    version: DatasetVersion | None = first
    while version is not None:
        after = children.get(version.pk, [])
        own = runs.get(version.pk, [])
        stops.append(
            Stop(
                version=version,
                files=[source.name for source in version.sources.all()],
                changes=changes_in_words(version.changes),
                runs=own[:RUNS_SHOWN],
                more_runs=max(len(own) - RUNS_SHOWN, 0),
                branches=[_line(child, children, runs) for child in after[:-1]],
            )
        )
        version = after[-1] if after else None
    return stops


def _run_lines(below: Iterable[Dependant]) -> dict[UUID, list[RunLine]]:
    found: dict[UUID, list[RunLine]] = defaultdict(list)
    lines: dict[str | None, RunLine] = {}
    for one in below:
        if one.kind == "run":
            lines[one.key] = line = RunLine(one)
            found[one.version_id].append(line)
        elif (above := lines.get(one.above)) is not None:
            lines[one.key] = above
            if one.kind == "adapter":
                above.adapter = one
            else:
                above.deployments.append(one)
    return found


def changes_in_words(changes: list[dict[str, Any]]) -> str:
    """Return what a list of operations does, in a few words."""
    counts: Counter[str] = Counter()
    for change in changes:
        counts[str(change["op"])] += len(change.get("ids") or change.get("rows") or [1])
    words = []
    for name, count in counts.items():
        number = {"count": count}
        if name == "exclude":
            words.append(ngettext("%(count)d row excluded", "%(count)d rows excluded", count) % number)
        elif name == "replace":
            words.append(ngettext("%(count)d edit", "%(count)d edits", count) % number)
        elif name == "move":
            words.append(ngettext("%(count)d row moved", "%(count)d rows moved", count) % number)
        elif name == "add":
            words.append(ngettext("%(count)d row added", "%(count)d rows added", count) % number)
        elif name == "resplit":
            words.append(_("divided again"))
        elif name in ("mask_pii", "drop_pii"):
            words.append(_("personal data removed"))
        else:
            words.append(_("rows repaired"))
    return ", ".join(dict.fromkeys(words))

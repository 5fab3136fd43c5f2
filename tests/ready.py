"""A ready dataset version for every test that needs one: imported once for the run, then only copied."""

from __future__ import annotations

import csv
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets_app.models import DatasetVersion, SourceFile, Split
from portal.actors import Actor
from portal.models import Team
from portal.rls import team_scope

TICKETS = [
    (f"Ticket {number}: {word} is broken", f'{{"service": "{word}", "urgency": "{("Low", "High")[number % 2]}"}}')
    for number, word in enumerate(["VPN", "Mail", "Printer", "Wiki"] * 6)
]
# What names the owner of a row, not its content.
OWNERS = ("id", "team_id", "dataset_id", "version_id", "created_by_id")


@dataclass(frozen=True)
class KeptImport:
    """What an import left: the columns of its rows, and its files."""

    version: dict[str, Any]
    sources: dict[str, dict[str, Any]]
    folder: Path


def import_tickets(team: Team, actor: Actor, folder: Path) -> DatasetVersion:
    """Import 20 training and 4 validation rows by the real import."""
    from datasets_app import services, tasks

    files = {Split.TRAIN: TICKETS[:20], Split.VALIDATION: TICKETS[20:]}
    paths = {split: write_csv(folder / f"{split.value}.csv", rows) for split, rows in files.items()}
    with team_scope(team.pk):
        version = services.import_files(team=team, actor=actor, name="Tickets", files=paths)
    tasks.import_version(str(version.pk))
    with team_scope(team.pk):
        return DatasetVersion.unscoped.get(pk=version.pk)


def keep(version: DatasetVersion, folder: Path) -> KeptImport:
    """Remember a version, with its files in `folder`."""
    with team_scope(version.team_id):
        sources = {str(source.pk): _content(source) for source in version.sources.all()}
    shutil.copytree(version.folder, folder)
    return KeptImport(_content(version), sources, folder)


def copy_of(kept: KeptImport, team: Team, actor: Actor) -> DatasetVersion:
    """Return a version of `team` that equals the kept one, its files included."""
    with team_scope(team.pk):
        dataset = team.datasets.create(name="Tickets", created_by=actor.user)
        version = team.datasetversions.create(dataset=dataset, created_by=actor.user, **kept.version)
        shutil.copytree(kept.folder, version.folder)
        for old, content in kept.sources.items():
            source = team.sourcefiles.create(version=version, **content)
            (version.folder / f"source-{old}.bin").rename(source.path)
        return DatasetVersion.unscoped.get(pk=version.pk)


def _content(row: DatasetVersion | SourceFile) -> dict[str, Any]:
    names = [field.attname for field in row._meta.concrete_fields if field.attname not in OWNERS]
    return {name: getattr(row, name) for name in names}


def write_csv(path: Path, rows: list[tuple[str, str]]) -> Path:
    """Write (prompt, response) rows in the import format."""
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(["prompt", "response"])
        writer.writerows(rows)
    return path

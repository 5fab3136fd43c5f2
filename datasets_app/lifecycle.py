"""What the machine that imports reports: claim, progress, end; and the sweep that finds what was lost.

Every report is a conditional update that names the claim, so a worker that was given up for dead changes nothing.
"""

from __future__ import annotations

import logging
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final
from uuid import UUID

from django.db.models import QuerySet
from django.utils import timezone

from datasets_app.claims import ClaimLost, Claims, remove_leftovers
from datasets_app.conversion import Conversion, Source
from datasets_app.derivation import Derivation
from datasets_app.doctor_reports.lifecycle import open_first_report
from datasets_app.mapping import Mapping as ColumnMapping
from datasets_app.models import DatasetVersion, Split
from datasets_app.operations import Context
from datasets_app.options import ImportOptions
from datasets_app.sources import in_order
from portal import audit
from portal.access import may_still_edit
from portal.actors import Actor
from portal.queue import LONG_S
from portal.rls import all_teams, team_scope

logger = logging.getLogger(__name__)

# A worker reports about twice a second; one that is silent for so long is gone.
STALLED_AFTER: Final = timedelta(seconds=60)
IMPORTS: Final = Claims(
    DatasetVersion,
    open=(DatasetVersion.Status.IMPORTING,),
    task="datasets_app.tasks.import_version",
    stalled_after=STALLED_AFTER,
    called="imports",
    timeout_s=LONG_S,
)
MAX_ATTEMPTS: Final = 3
MACHINE: Final = Actor.system("import")


@dataclass(frozen=True)
class ImportJob:
    """A claimed import: all that the worker needs to know, so that it can work without a transaction."""

    version_id: UUID
    team_id: UUID
    claim: UUID
    folder: Path
    sources: list[Source]
    mapping: ColumnMapping
    options: ImportOptions
    derivation: Derivation | None = None

    @property
    def work_folder(self) -> Path:
        """Where this attempt writes; no other attempt writes there."""
        return self.folder / f"work-{self.claim}"


def claim_import(version_id: UUID) -> ImportJob | None:
    """Take an import that nobody works on, counting the attempt; return None if there is nothing to do.

    An import whose workers died `MAX_ATTEMPTS` times fails here: the file itself may be what kills them.
    """
    with all_teams("the queue knows only the id of a version"):
        version = DatasetVersion.unscoped.filter(pk=version_id).select_related("team", "created_by").first()
    if version is None:
        return None
    claim = uuid.uuid4()
    with team_scope(version.team_id):
        if not may_still_edit(version.team, version.created_by):
            if IMPORTS.unclaimed(version_id).update(claim=claim):
                _fail(version_id, claim, {"error": {"code": "importer_lost_access"}})
            return None
        if IMPORTS.take(version_id, claim, attempts=MAX_ATTEMPTS, rows_done=0, bytes_done=0):
            remove_leftovers(version.folder)
            return _job(version, claim)
        if IMPORTS.unclaimed(version_id).update(claim=claim):
            remove_leftovers(version.folder)
            _fail(version_id, claim, {"error": {"code": "gave_up", "attempts": MAX_ATTEMPTS}})
    return None


def _job(version: DatasetVersion, claim: UUID) -> ImportJob:
    version.refresh_from_db(fields=["mapping", "options", "changes", "parent"])
    sources = [
        Source(Split(one.split), one.name, one.path, one.encoding, one.delimiter, one.text_bytes, one.counts_rows)
        for one in in_order(version)
    ]
    return ImportJob(
        version_id=version.pk,
        team_id=version.team_id,
        claim=claim,
        folder=version.folder,
        sources=sources,
        mapping=ColumnMapping.from_dict(version.mapping),
        options=ImportOptions.from_dict(version.options),
        derivation=_derivation(version) if version.is_derived else None,
    )


def _derivation(version: DatasetVersion) -> Derivation:
    """Return what makes a derived version; without paths if its parent is gone for good."""
    parent = version.parent
    paths = {split: parent.rows_path(split) for split in Split if parent.row_count(split)} if parent else {}
    return Derivation(
        paths=paths,
        rows=parent.total_rows if parent else 0,
        changes=version.changes,
        context=Context(
            team_folder=version.team.folder,
            parent_folder=parent.folder if parent else version.folder,
            json_answers=bool(version.mapping.get("json_answers")),
            seed=int(version.options.get("seed", 1)),
        ),
    )


def report_progress(job: ImportJob, rows_done: int, bytes_done: int) -> None:
    """Say that the worker lives and how far it is. Raises: ClaimLost if the import is no longer its own."""
    with team_scope(job.team_id):
        alive = _claimed(job).update(rows_done=rows_done, bytes_done=bytes_done, heartbeat_at=timezone.now())
    if not alive:
        raise ClaimLost


def finish_import(job: ImportJob, conversion: Conversion) -> None:
    """Move the rows to their place and make the version ready, in one step as others see it.

    Raises: ClaimLost if the import is no longer this worker's.
    """
    with team_scope(job.team_id):
        version = _claimed(job).select_for_update().first()
        if version is None:
            raise ClaimLost
        for split in Split:
            _move_into_place(job.work_folder / f"{split.value}.parquet", version.rows_path(split))
        version.status = DatasetVersion.Status.READY
        version.ready_at = version.heartbeat_at = timezone.now()
        version.train_rows = conversion.rows.get(Split.TRAIN.value, 0)
        version.validation_rows = conversion.rows.get(Split.VALIDATION.value, 0)
        version.test_rows = conversion.rows.get(Split.TEST.value, 0)
        version.size_bytes, version.content_hash = conversion.size_bytes, conversion.content_hash
        version.report, version.claim = dict(conversion.report), None
        version.save()
        audit.record(version.team, MACHINE, "dataset.version_ready", version, rows=version.total_rows)
        open_first_report(version)
    logger.info("dataset version %s is ready: %d rows", version.pk, version.total_rows)


def _move_into_place(written: Path, place: Path) -> None:
    # An attempt whose commit failed may have left rows of a split that this one does not have.
    if written.exists():
        written.replace(place)
    else:
        place.unlink(missing_ok=True)


def fail_import(job: ImportJob, report: Mapping[str, object]) -> None:
    """End an import that cannot succeed; the report says why. Does nothing if the claim is lost."""
    with team_scope(job.team_id):
        _fail(job.version_id, job.claim, report)


def _fail(version_id: UUID, claim: UUID, report: Mapping[str, object]) -> None:
    mine = DatasetVersion.unscoped.filter(pk=version_id, claim=claim, status=DatasetVersion.Status.IMPORTING)
    if not mine.update(status=DatasetVersion.Status.FAILED, report=dict(report), claim=None, size_bytes=0):
        return
    version = DatasetVersion.unscoped.select_related("team", "dataset").get(pk=version_id)
    audit.record(version.team, MACHINE, "dataset.version_failed", version, outcome="failed")
    logger.info("import of dataset version %s failed", version_id)


def holds_claim(job: ImportJob) -> bool:
    """Return whether the import is still this worker's."""
    with team_scope(job.team_id):
        return _claimed(job).exists()


def _claimed(job: ImportJob) -> QuerySet[DatasetVersion]:
    return DatasetVersion.unscoped.filter(pk=job.version_id, claim=job.claim, status=DatasetVersion.Status.IMPORTING)


def requeue_stalled_imports() -> int:
    """Queue imports again whose message or worker was lost; return how many. Call it about once a minute."""
    return IMPORTS.requeue_stalled()


def remove_work(job: ImportJob) -> None:
    """Take away what this attempt wrote and did not move into place."""
    shutil.rmtree(job.work_folder, ignore_errors=True)

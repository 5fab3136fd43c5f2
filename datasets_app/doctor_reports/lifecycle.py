"""What the machine that examines reports: claim, progress, end; and the sweep that finds what was lost.

As with imports, every report is a conditional update that names the claim.
"""

from __future__ import annotations

import logging
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from django.db.models import QuerySet
from django.utils import timezone

from datasets_app.answer_schemas.origins import confirmed_schema, inherit, note_inferred
from datasets_app.claims import ClaimLost, Claims, remove_leftovers
from datasets_app.models import DatasetVersion, DoctorReport, Split
from portal import audit
from portal.actors import Actor
from portal.models import BaseModel
from portal.queue import LONG_S
from portal.rls import team_scope

logger = logging.getLogger(__name__)

# The longest part without a word is the search for label errors.
STALLED_AFTER: Final = timedelta(minutes=10)
MAX_ATTEMPTS: Final = 3
MACHINE: Final = Actor.system("doctor")
Status = DoctorReport.Status
REPORTS: Final = Claims(
    DoctorReport,
    open=DoctorReport.OPEN,
    task="datasets_app.tasks.examine_version",
    stalled_after=STALLED_AFTER,
    called="doctor reports",
    timeout_s=LONG_S,
)


@dataclass(frozen=True)
class Examination:
    """A claimed report: all that the worker needs to know, so that it can work without a transaction."""

    report_id: UUID
    team_id: UUID
    claim: UUID
    folder: Path
    rows_paths: Mapping[str, Path]
    tokenizer_folder: Path | None
    options: Mapping[str, Any]

    @property
    def work_folder(self) -> Path:
        """Where this attempt writes; no other attempt writes there."""
        return self.folder.with_name(f"work-{self.claim}")


def open_report(
    *, version: DatasetVersion, base_model: BaseModel | None, options: Mapping[str, Any], actor: Actor
) -> DoctorReport:
    """Queue a report of a ready version, in the caller's transaction. Raises: IntegrityError if one is open."""
    confirmed = confirmed_schema(version)
    report = version.team.doctorreports.create(
        version=version,
        base_model=base_model,
        options={**options, **({"schema": confirmed.schema} if confirmed else {})},
        created_by=actor.user,
        heartbeat_at=timezone.now(),
    )
    audit.record(version.team, actor, "doctor.started", version)
    REPORTS.enqueue(report.pk)
    return report


def open_first_report(version: DatasetVersion) -> None:
    """Queue the report that every version gets when it becomes ready, with the smallest allowed base model."""
    inherit(version)
    examine_again(version, MACHINE)


def examine_again(version: DatasetVersion, actor: Actor) -> None:
    """Queue a report as the last one was asked for, unless one is open."""
    last = version.doctor_reports.defer("report").first()
    if last is not None and last.is_open:
        return
    options = {name: value for name, value in last.options.items() if name != "schema"} if last else {}
    model = last.base_model if last is not None and last.base_model_id else smallest_base_model()
    open_report(version=version, base_model=model, options=options, actor=actor)


def smallest_base_model() -> BaseModel | None:
    """Return the base model whose tokens are counted unless somebody chooses another one."""
    return BaseModel.objects.filter(is_allowed=True).order_by("parameters").first()


def claim_report(report_id: UUID) -> Examination | None:
    """Take a report that nobody works on, counting the attempt; return None if there is nothing to do."""
    team_id = REPORTS.team_of(report_id)
    if team_id is None:
        return None
    claim = uuid.uuid4()
    with team_scope(team_id):
        if REPORTS.take(report_id, claim, attempts=MAX_ATTEMPTS, status=Status.RUNNING, progress=0):
            job = _examination(report_id, claim)
            remove_leftovers(job.folder.parent)
            return job
        if REPORTS.unclaimed(report_id).update(claim=claim):
            _end(
                report_id, claim, Status.FAILED, error={"code": "doctor_gave_up", "params": {"attempts": MAX_ATTEMPTS}}
            )
    return None


def _examination(report_id: UUID, claim: UUID) -> Examination:
    report = DoctorReport.unscoped.select_related("version__team", "base_model").get(pk=report_id)
    version, model = report.version, report.base_model
    return Examination(
        report_id=report_id,
        team_id=report.team_id,
        claim=claim,
        folder=report.folder,
        rows_paths={split.value: version.rows_path(split) for split in Split if version.row_count(split)},
        tokenizer_folder=model.folder if model else None,
        options=report.options,
    )


def report_progress(job: Examination, share: float) -> None:
    """Say that the worker lives and how far it is. Raises: ClaimLost if the report is no longer its own."""
    with team_scope(job.team_id):
        alive = _claimed(job).update(progress=round(100 * min(max(share, 0), 1)), heartbeat_at=timezone.now())
    if not alive:
        raise ClaimLost


def finish_report(job: Examination, found: Mapping[str, Any]) -> None:
    """Keep the report and move its side files into place. Raises: ClaimLost if it is no longer this worker's."""
    with team_scope(job.team_id):
        if _claimed(job).select_for_update().first() is None:
            raise ClaimLost
        shutil.rmtree(job.folder, ignore_errors=True)
        job.work_folder.replace(job.folder)
        _end(job.report_id, job.claim, Status.READY, report=dict(found), progress=100)
        version = DatasetVersion.unscoped.filter(doctor_reports=job.report_id).first()
        if version is not None:  # it may have been deleted meanwhile
            note_inferred(version, found.get("schema"))
    logger.info("doctor report %s is ready: %d findings", job.report_id, len(found["findings"]))


def fail_report(job: Examination, code: str, **params: object) -> None:
    """End a report that cannot succeed. Does nothing if the claim is lost."""
    with team_scope(job.team_id):
        _end(job.report_id, job.claim, Status.FAILED, error={"code": code, "params": params})
    logger.info("doctor report %s failed: %s", job.report_id, code)


def _end(report_id: UUID, claim: UUID, status: str, **changed: object) -> None:
    mine = DoctorReport.unscoped.filter(pk=report_id, claim=claim, status__in=DoctorReport.OPEN)
    if not mine.update(status=status, claim=None, ended_at=timezone.now(), **changed):
        return
    report = DoctorReport.unscoped.select_related("version__dataset", "team").get(pk=report_id)
    outcome = {"outcome": "failed"} if status == Status.FAILED else {}
    action = "doctor.failed" if status == Status.FAILED else "doctor.ready"
    audit.record(report.team, MACHINE, action, report.version, **outcome)


def holds_claim(job: Examination) -> bool:
    """Return whether the report is still this worker's."""
    with team_scope(job.team_id):
        return _claimed(job).exists()


def _claimed(job: Examination) -> QuerySet[DoctorReport]:
    return DoctorReport.unscoped.filter(pk=job.report_id, claim=job.claim, status=Status.RUNNING)


def requeue_stalled_reports() -> int:
    """Queue reports again whose message or worker was lost; return how many. Call it about once a minute."""
    return REPORTS.requeue_stalled()


def remove_work(job: Examination) -> None:
    """Take away what this attempt wrote and did not move into place."""
    shutil.rmtree(job.work_folder, ignore_errors=True)


def newest_report(version: DatasetVersion) -> DoctorReport | None:
    """Return the report that counts for a version: the newest one that is ready."""
    return version.doctor_reports.filter(status=Status.READY).order_by("-created_at").first()

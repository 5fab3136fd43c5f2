"""What the queue calls. Any message may come twice or never."""

from __future__ import annotations

import errno
import logging
import time
from typing import Final
from uuid import UUID

from datasets_app import arrivals, deletion, lifecycle
from datasets_app.claims import ClaimLost
from datasets_app.conversion import Conversion, FaultyRows, SourceRefused, convert
from datasets_app.derivation import derive
from datasets_app.doctor_reports import examination
from datasets_app.doctor_reports.lifecycle import requeue_stalled_reports
from datasets_app.lifecycle import ImportJob
from datasets_app.operations import ChangeRefused
from datasets_app.remote import fetching
from datasets_app.remote.lifecycle import requeue_stalled_fetches
from datasets_app.unpacking import limits

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_REPORTS: Final = 0.5


def import_version(version_id: str) -> None:
    """Turn a version's source files, or its parent's rows, into its rows.

    It ends READY or FAILED, and nothing half-made stays.
    """
    job = lifecycle.claim_import(UUID(version_id))
    if job is None:
        return
    try:
        _run(job)
    except ClaimLost:
        logger.info("import of dataset version %s was taken away", version_id)
    finally:
        lifecycle.remove_work(job)


def fetch_version(version_id: str) -> None:
    """Start a process that fetches the files of a version from elsewhere: that may take longer than a task may."""
    fetching.spawn(UUID(version_id))


def examine_version(report_id: str) -> None:
    """Let the dataset doctor examine a version: its report ends READY or FAILED."""
    examination.run(UUID(report_id))


def prune() -> int:
    """Throw away uploads in parts whose time is up, drafts that nobody mapped, and what was deleted 30 days ago."""
    return arrivals.prune() + deletion.prune()


def sweep() -> None:
    """Find imports, examinations and fetches that were lost."""
    lifecycle.requeue_stalled_imports()
    requeue_stalled_reports()
    requeue_stalled_fetches()


def _run(job: ImportJob) -> None:
    try:
        job.work_folder.mkdir(parents=True)
        lifecycle.finish_import(job, _rows_of(job))
    except ChangeRefused as refused:
        lifecycle.fail_import(job, {"error": {"code": refused.code, **refused.params}})
    except FaultyRows as found:
        report = {"faults": found.faults.shown, "fault_count": found.faults.count}
        lifecycle.fail_import(job, {"error": {"code": "faulty_rows"}, **report})
    except SourceRefused as refused:
        place = {"file": refused.source.name, "split": str(refused.source.split)}
        error = {"code": refused.error.code, "params": refused.error.params, "message": refused.error.message}
        lifecycle.fail_import(job, {"error": error | place})
    except OSError as error:
        # Discarding a version takes its files away under the worker's feet.
        if not lifecycle.holds_claim(job):
            raise ClaimLost from error
        if error.errno != errno.ENOSPC:
            raise
        lifecycle.fail_import(job, {"error": {"code": "disk_full"}})


def _rows_of(job: ImportJob) -> Conversion:
    if job.derivation is not None:
        return derive(job.derivation, job.work_folder, beat=_Reporter(job))
    return convert(
        job.sources,
        job.mapping,
        job.work_folder,
        skip_faulty=job.options.skip_faulty,
        plan=job.options.plan,
        limits=limits(),
        beat=_Reporter(job),
    )


class _Reporter:
    """Passes progress on, but not more often than every half second."""

    def __init__(self, job: ImportJob) -> None:
        self._job = job
        self._next_s = 0.0

    def __call__(self, rows_done: int, bytes_done: int) -> None:
        now_s = time.monotonic()
        if now_s >= self._next_s:
            self._next_s = now_s + SECONDS_BETWEEN_REPORTS
            lifecycle.report_progress(self._job, rows_done, bytes_done)

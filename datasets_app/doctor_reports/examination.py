"""One examination from claim to report: the rows are read in a capped child, the outcome is kept here."""

from __future__ import annotations

import errno
import logging
import time
from typing import Any, Final
from uuid import UUID

from datasets_app.capped import WorkRefused, run_capped
from datasets_app.claims import ClaimLost
from datasets_app.doctor_reports import lifecycle
from datasets_app.doctor_reports.lifecycle import Examination
from datasets_app.readers import DataError

logger = logging.getLogger(__name__)

# By name: only the child needs the libraries that learn.
WORK: Final = "datasets_app.doctor_reports.work:examine_rows"
# Of address space: the libraries that count tokens and learn labels reserve far more than they use.
MEMORY_BYTES: Final = 4 << 30
CPU_SECONDS: Final = 3600
SECONDS_BETWEEN_REPORTS: Final = 0.5


def run(report_id: UUID) -> None:
    """Examine the version of a report if nobody else does."""
    job = lifecycle.claim_report(report_id)
    if job is None:
        return
    try:
        _examine(job)
    except ClaimLost:
        logger.info("doctor report %s was taken away", report_id)
    finally:
        lifecycle.remove_work(job)


def _examine(job: Examination) -> None:
    if not all(path.exists() for path in job.rows_paths.values()):
        lifecycle.fail_report(job, "rows_missing")
        return
    try:
        job.work_folder.mkdir(parents=True)
        found = run_capped(
            WORK,
            {
                "folder": str(job.work_folder),
                "rows_paths": {split: str(path) for split, path in job.rows_paths.items()},
                "tokenizer_folder": str(job.tokenizer_folder) if job.tokenizer_folder else None,
                "options": dict(job.options),
            },
            memory_bytes=MEMORY_BYTES,
            cpu_seconds=CPU_SECONDS,
            on_message=_Reporter(job),
        )
        lifecycle.finish_report(job, found)
    except WorkRefused as refused:
        lifecycle.fail_report(job, refused.code, **refused.params)
    except DataError as refused:
        lifecycle.fail_report(job, "doctor_failed", reason=refused.message)
    except OSError as error:
        # Discarding a version takes its files away under the worker's feet.
        if not lifecycle.holds_claim(job):
            raise ClaimLost from error
        if error.errno != errno.ENOSPC:
            raise
        lifecycle.fail_report(job, "disk_full")


class _Reporter:
    """Passes progress on, but not more often than every half second."""

    def __init__(self, job: Examination) -> None:
        self._job = job
        self._next_s = 0.0

    def __call__(self, said: dict[str, Any]) -> None:
        now_s = time.monotonic()
        if now_s >= self._next_s:
            self._next_s = now_s + SECONDS_BETWEEN_REPORTS
            lifecycle.report_progress(self._job, float(said["share"]))

"""The work of a fetch, outside of any transaction."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Final
from uuid import UUID

from django.conf import settings
from django.utils.translation import gettext as _

from datasets_app.claims import ClaimLost
from datasets_app.remote import lifecycle
from datasets_app.remote.gather import gather
from datasets_app.remote.lifecycle import FetchJob
from portal.errors import PortalError

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_REPORTS: Final = 0.5


# Kept so that ended ones are reaped when the next one is started.
_started: list[subprocess.Popen[bytes]] = []


def spawn(version_id: UUID) -> int | None:
    """Start a process that outlives the queue's task and its time limit; return its id, None if nothing waits.

    Whether it really gets the work is decided by its claim.
    """
    _started[:] = [known for known in _started if known.poll() is None]
    if not lifecycle.is_waiting(version_id):
        return None
    log = Path(settings.DATA_DIR) / "logs" / "fetches.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name != "Q_CLUSTER_NAME"}
    environment["TUNEPORT_DATA_DIR"] = str(settings.DATA_DIR)
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, str(Path(settings.BASE_DIR) / "manage.py"), "fetch", str(version_id)],
            cwd=settings.BASE_DIR,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _started.append(process)
    return process.pid


def run(version_id: UUID) -> None:
    """Fetch the files of a version: it ends as a DRAFT or on its way to rows, or the fetch ends FAILED.

    The folder of the version appears with its files or not at all.
    """
    job = lifecycle.claim_fetch(version_id)
    if job is None:
        return
    work = job.folder.with_name(f"{job.folder.name}.fetch-{job.claim}")
    try:
        for left in job.folder.parent.glob(f"{job.folder.name}.fetch-*"):  # by a worker that was killed
            shutil.rmtree(left, ignore_errors=True)
        work.mkdir(parents=True)
        gathered = gather(
            job.source,
            lifecycle.secret_of(job),
            work,
            max_bytes=settings.MAX_DATASET_BYTES,
            beat=_Reporter(job),
            room=lambda size: lifecycle.require_room(job, size),
        )
        lifecycle.finish_fetch(job, gathered)
    except ClaimLost:
        logger.info("fetching the files of dataset version %s was taken away", version_id)
    except PortalError as error:
        lifecycle.fail_fetch(job, error)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        lifecycle.fail_fetch(job, PortalError(_("The disk is full. Ask an admin to make room, then try again.")))
    finally:
        shutil.rmtree(work, ignore_errors=True)


class _Reporter:
    """Passes progress on, but not more often than every half second."""

    def __init__(self, job: FetchJob) -> None:
        self._job = job
        self._next_s = 0.0

    def __call__(self, bytes_done: int, bytes_total: int | None) -> None:
        now_s = time.monotonic()
        if now_s >= self._next_s:
            self._next_s = now_s + SECONDS_BETWEEN_REPORTS
            lifecycle.report_progress(self._job, bytes_done, bytes_total)

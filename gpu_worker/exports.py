"""What the queue calls for exports: a child makes the file with no secrets and no network; this process pushes it."""

from __future__ import annotations

import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from django.conf import settings
from django.utils.translation import gettext as _

from datasets_app.claims import ClaimLost
from deployments import exports_lifecycle as lifecycle
from deployments.exports_lifecycle import ExportJob
from gpu_worker import hub_push
from gpu_worker.engine_process import clean_environment
from portal.errors import PortalError
from portal.process_table import die_with_parent

logger = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "gpu_worker.exporter")
_LEAST_MEMORY = 4 * 2**30


class Failed(Exception):
    """An export that is not possible; the text is for people."""


def work_on_export(export_id: str) -> bool:
    """Make what an export asks for; return whether it ended well. Repeating it does nothing."""
    job = lifecycle.claim_export(uuid.UUID(export_id))
    if job is None:
        return False
    shutil.rmtree(job.folder, ignore_errors=True)  # of an attempt that died
    job.folder.mkdir(parents=True)
    try:
        return _push(job) if job.kind == "hub" else _make_file(job)
    except ClaimLost:
        lifecycle.remove(job.folder)
        return False
    except Failed as failure:
        lifecycle.export_failed(job, str(failure))
        return False
    except OSError as error:
        logger.exception("export %s", job.export_id)
        lifecycle.export_failed(job, _("The file could not be written: %(why)s.") % {"why": error.strerror or "?"})
        return False


def _make_file(job: ExportJob) -> bool:
    name = _run_child(job, share=1.0)
    if not lifecycle.export_ready(job, file=job.folder / name):
        lifecycle.remove(job.folder)
        return False
    return True


def _push(job: ExportJob) -> bool:
    try:
        credential = lifecycle.credential_of(job)
        folder = job.folder / _run_child(job, share=0.5, as_folder=True) if job.whole_model else _adapter_folder(job)
        url = hub_push.push(
            folder,
            repository=job.repository,
            is_private=job.is_private,
            credential=credential,
            alive=lambda: lifecycle.report_progress(job, 0.5),
        )
    except hub_push.Unreachable as problem:
        lifecycle.remove(job.folder)
        if lifecycle.try_again(job):
            return False
        raise Failed(str(problem)) from problem
    except (hub_push.Refused, PortalError) as problem:
        raise Failed(str(problem)) from problem
    lifecycle.remove(job.folder)
    return lifecycle.export_ready(job, url=url)


def _adapter_folder(job: ExportJob) -> Path:
    folder = job.folder / "adapter"
    shutil.copytree(job.adapter, folder)
    (folder / "README.md").write_text(job.card, encoding="utf-8")
    return folder


def _run_child(job: ExportJob, *, share: float, as_folder: bool = False) -> str:
    """Have the exporter make the file or folder and return its name. Raises: Failed, ClaimLost."""
    asked = {
        "kind": "merged" if as_folder else job.kind, "base": str(job.base), "adapter": str(job.adapter),
        "name": job.name, "weights": job.weights, "card": job.card, "as_folder": as_folder,
    }  # fmt: skip
    (job.folder / "export.json").write_text(json.dumps(asked), encoding="utf-8")
    home = job.folder / "home"
    home.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [*COMMAND, str(job.folder)],
        cwd=settings.BASE_DIR,
        env=clean_environment(os.environ, home),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=_limits(),
    )
    last: dict[str, Any] = {}
    try:
        for last in _lines(process):
            if "progress" in last:
                lifecycle.report_progress(job, share * float(last["progress"]))
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(home, ignore_errors=True)
        with suppress(OSError):
            (job.folder / "export.json").unlink()
    if "done" in last:
        return str(last["done"])
    raise Failed(str(last.get("message") or _("The export stopped without a word: it may have run out of memory.")))


def _lines(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    assert process.stdout is not None
    for line in process.stdout:
        with suppress(ValueError):
            yield json.loads(line)


def _limits() -> Any:
    """Return what the child does before it begins: no core dumps, bounded memory, and it dies with its parent."""
    die = die_with_parent(signal.SIGKILL)

    def limit() -> None:
        die()
        os.nice(5)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        most = max(_LEAST_MEMORY, int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * 0.5))
        resource.setrlimit(resource.RLIMIT_AS, (most, most))

    return limit

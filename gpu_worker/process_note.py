"""Notes in which process a run is supervised: `manage.py up` looks there for what it has to shut down."""

from __future__ import annotations

import contextlib
import uuid
from pathlib import Path

from django.conf import settings


def note_process(run_id: uuid.UUID, pid: int) -> None:
    """Note that `pid` supervises the run."""
    path = _path(run_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{pid}\n")


def forget_process(run_id: uuid.UUID, pid: int) -> None:
    """Remove the note, unless it speaks of another process."""
    with contextlib.suppress(FileNotFoundError):
        if _path(run_id).read_text() == f"{pid}\n":
            _path(run_id).unlink()


def _path(run_id: uuid.UUID) -> Path:
    return Path(settings.DATA_DIR) / "run" / "supervisors" / f"{run_id}.pid"

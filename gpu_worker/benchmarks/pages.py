"""Pages and token checks measured over a big installation: hundreds of teams, millions of rows.

The rows go into a database of their own on the same server, made for the measurement and dropped after it, so the
installation's own data are never touched. `manage.py benchmark pages` calls `run`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gpu_worker.benchmarks.own_database import measure_in_child


def run(*, rows: Path | None, model_dir: Path, quick: bool = False, progress: Callable[[str], object] = print) -> str:
    """Seed, measure and return the Markdown section. `quick`: a fiftieth of the rows. The other arguments are unused.

    Raises: RuntimeError with the end of the child's output if it fails.
    """
    return measure_in_child("gpu_worker.benchmarks.pages_measure", quick=quick, progress=progress)

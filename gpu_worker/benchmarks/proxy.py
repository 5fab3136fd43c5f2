"""What the portal costs between a caller and an engine: authentication, limits, metering, and streams beside pages.

The engine is trivial and answers at once (`proxy_engine`), the servers are started as `manage.py up` starts them, over
an empty database of their own. `manage.py benchmark proxy` calls `run`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gpu_worker.benchmarks.own_database import measure_in_child


def run(*, rows: Path | None, model_dir: Path, quick: bool = False, progress: Callable[[str], object] = print) -> str:
    """Measure and return the Markdown section. `quick`: a second each. The other arguments are unused.

    Raises: RuntimeError with the end of the child's output if it fails.
    """
    return measure_in_child("gpu_worker.benchmarks.proxy_measure", quick=quick, progress=progress)

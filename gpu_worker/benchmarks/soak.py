"""A whole installation under mixed load for half an hour while its processes are killed: does everything add up?

Everything is real: servers, queues, node agent and engine as `manage.py up` starts them, over a database and a data
folder of their own, and adapters that were trained there. `manage.py benchmark soak` calls `run`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gpu_worker.benchmarks.own_database import measure_in_child

MINUTES = 30.0
QUICK_MINUTES = 0.5


def run(
    *,
    rows: Path | None,
    model_dir: Path,
    quick: bool = False,
    progress: Callable[[str], object] = print,
    minutes: float | None = None,
    seed: int = 0,
    tiny: bool = False,
) -> str:
    """Measure and return the Markdown section. `quick`: half a minute; `tiny`: a model of two layers; `rows` is unused.

    Raises: RuntimeError with the end of the child's output if it fails.
    """
    chosen = minutes if minutes is not None else QUICK_MINUTES if quick else MINUTES
    options = ["--minutes", str(chosen), "--seed", str(seed), *(["--tiny"] if tiny else ["--model", str(model_dir)])]
    module = "gpu_worker.benchmarks.soak_measure"
    return measure_in_child(module, quick=quick, progress=progress, options=options)

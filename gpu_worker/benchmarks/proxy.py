"""What the portal costs between a caller and an engine: authentication, limits, metering, and streams beside pages.

The engine is trivial and answers at once (`proxy_engine`), the servers are started as `manage.py up` starts them, over
an empty database of their own. `manage.py benchmark proxy` calls `run`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from django.conf import settings

from gpu_worker.benchmarks import proxy_litellm
from gpu_worker.benchmarks.own_database import measure_in_child


def run(
    *,
    rows: Path | None,
    model_dir: Path,
    quick: bool = False,
    progress: Callable[[str], object] = print,
    peers: Sequence[str] = (),
) -> str:
    """Measure and return the Markdown section. `quick`: a second each; `peers`: may name litellm.

    The other arguments are unused. Raises: RuntimeError with the end of the child's output if it fails, or why a peer
    cannot be installed.
    """
    more: list[str] = []
    if "litellm" in peers:
        folder = Path(settings.DATA_DIR) / "peers" / "litellm"
        if why := proxy_litellm.install(folder, progress=progress):
            raise RuntimeError(f"LiteLLM cannot be measured: {why}")
        more = ["--litellm", str(folder)]
    return measure_in_child("gpu_worker.benchmarks.proxy_measure", quick=quick, progress=progress, options=more)

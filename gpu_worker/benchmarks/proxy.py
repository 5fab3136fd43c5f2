"""What the portal costs between a caller and an engine: authentication, limits, metering, and streams beside pages.

The engine is trivial and answers at once (`proxy_engine`), the servers are started as `manage.py up` starts them, over
an empty database of their own. `manage.py benchmark proxy` calls `run`.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from gpu_worker.benchmarks.pages import empty_database


def run(*, rows: Path | None, model_dir: Path, quick: bool = False, progress: Callable[[str], object] = print) -> str:
    """Measure and return the Markdown section. `quick`: a second each. The other arguments are unused.

    Raises: RuntimeError with the end of the child's output if it fails.
    """
    with tempfile.TemporaryDirectory() as folder, empty_database() as address:
        section = Path(folder) / "section.md"
        command = [sys.executable, "-m", "gpu_worker.benchmarks.proxy_measure", str(section)]
        environment = {**os.environ, "DATABASE_URL": address, "TUNEPORT_DATA_DIR": folder}
        environment["DJANGO_SETTINGS_MODULE"] = "portal.settings"
        with subprocess.Popen(
            [*command, *(["--quick"] if quick else [])],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as child:
            told = [line.rstrip() for line in child.stdout or [] if progress(line.rstrip()) or True]
        if child.returncode:
            raise RuntimeError("\n".join(told[-20:]))
        return section.read_text()

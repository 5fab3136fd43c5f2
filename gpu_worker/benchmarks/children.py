"""Programs that measure in a process of their own: an order in a file goes in, figures come out as the last line."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def figures_of(module: str, order: Mapping[str, Any], file: Path, *, environment: Mapping[str, str], what: str) -> Any:
    """Return what the program prints as JSON; its order is written to `file`.

    Raises: RuntimeError, beginning with `what`, with the end of its complaints if it fails.
    """
    file.write_text(json.dumps(order), encoding="utf-8")
    child = subprocess.run(
        [sys.executable, "-m", module, str(file)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode:
        raise RuntimeError(f"{what} failed ({child.returncode}): {child.stderr[-2000:]}")
    return json.loads(child.stdout.splitlines()[-1])

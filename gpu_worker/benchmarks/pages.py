"""Pages and token checks measured over a big installation: hundreds of teams, millions of rows.

The rows go into a database of their own on the same server, made for the measurement and dropped after it, so the
installation's own data are never touched. `manage.py benchmark pages` calls `run`.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from django.db import connection
from psycopg import sql
from psycopg.conninfo import make_conninfo

_NAME = "tuneport_benchmark"


def run(*, rows: Path | None, model_dir: Path, quick: bool = False, progress: Callable[[str], object] = print) -> str:
    """Seed, measure and return the Markdown section. `quick`: a fiftieth of the rows. The other arguments are unused.

    Raises: RuntimeError with the end of the child's output if it fails.
    """
    with tempfile.TemporaryDirectory() as folder, empty_database() as address:
        section = Path(folder) / "section.md"
        # A process of its own, so that settings, connections and caches are those of the big database alone.
        command = [sys.executable, "-m", "gpu_worker.benchmarks.pages_measure", str(section)]
        environment = {**os.environ, "DATABASE_URL": address, "TUNEPORT_DATA_DIR": folder}
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


@contextmanager
def empty_database() -> Iterator[str]:
    """Make an empty database beside the installation's and drop it afterwards; yield its address."""
    settings = connection.settings_dict
    drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(_NAME))
    with connection.cursor() as cursor:
        cursor.execute(drop)
        cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(_NAME)))
    try:
        yield make_conninfo(
            dbname=_NAME,
            user=settings["USER"],
            password=settings["PASSWORD"],
            host=settings["HOST"],
            port=settings["PORT"] or None,
        )
    finally:
        with connection.cursor() as cursor:
            cursor.execute(drop)

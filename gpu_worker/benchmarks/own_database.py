"""Benchmarks that need a database of their own: the child that measures, and what it begins with."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import django
from django.db import connection
from psycopg import sql
from psycopg.conninfo import make_conninfo

_NAME = "tuneport_benchmark"


def measure_in_child(
    module: str, *, quick: bool, progress: Callable[[str], object], options: Sequence[str] = ()
) -> str:
    """Run a measuring module over an empty database and return the Markdown section that it writes.

    `options`: more of its command line.
    A process of its own, so that settings, connections and caches are those of that database alone.
    Raises: RuntimeError with the end of its output if it fails.
    """
    with tempfile.TemporaryDirectory() as folder, empty_database() as address:
        section = Path(folder) / "section.md"
        environment = {**os.environ, "DATABASE_URL": address, "TUNEPORT_DATA_DIR": folder}
        # What we start through manage.py shall take this database, and not the embedded server of that folder.
        environment.pop("TUNEPORT_EMBEDDED_PG", None)
        with subprocess.Popen(
            [sys.executable, "-m", module, str(section), *(["--quick"] if quick else []), *options],
            env={**environment, "DJANGO_SETTINGS_MODULE": "portal.settings"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as child:
            told = [line.rstrip() for line in child.stdout or [] if progress(line.rstrip()) or True]
        if child.returncode:
            raise RuntimeError("\n".join(told[-20:]))
        return section.read_text()


def begin_child(parser: argparse.ArgumentParser | None = None) -> argparse.Namespace:
    """Read the child's command line (section, quick, and what `parser` knows), set Django up and make the tables."""
    parser = parser or argparse.ArgumentParser()
    parser.add_argument("section", type=Path)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    django.setup()
    from django.core.management import call_command

    call_command("migrate", interactive=False, verbosity=0)
    call_command("createcachetable", verbosity=0)
    call_command("collectstatic", interactive=False, verbosity=0)
    return options


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

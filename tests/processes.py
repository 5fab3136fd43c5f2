"""Other processes of the portal, working on the test's own database at the same time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from django.conf import settings
from django.db import connection
from psycopg.conninfo import make_conninfo

from tests.forked import Forked

PROJECT = Path(__file__).resolve().parent.parent
_PREPARE = "import os, sys, django; os.environ['DJANGO_SETTINGS_MODULE'] = 'portal.settings'; django.setup()\n"


def environment() -> dict[str, str]:
    """Return what makes a process use the test's database, folder and pepper."""
    known = connection.settings_dict
    address = make_conninfo(
        dbname=known["NAME"], user=known["USER"], password=known["PASSWORD"], host=known["HOST"], port=known["PORT"]
    )
    return {
        **os.environ,
        "DATABASE_URL": address,
        "TUNEPORT_DATA_DIR": str(settings.DATA_DIR),
        "TUNEPORT_TOKEN_PEPPER": settings.TOKEN_PEPPER,
        "TUNEPORT_SECRET_KEY": settings.SECRET_KEY,
        "TUNEPORT_SECRETS_KEY": settings.SECRETS_KEY,
    }


@contextmanager
def processes(program: str, *arguments: str, count: int) -> Iterator[list[Forked]]:
    """Start `count` processes that run a program with Django set up; they are stopped at the end."""
    started = [
        Forked(
            [sys.executable, "-c", _PREPARE + program, *arguments],
            cwd=PROJECT,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _number in range(count)
    ]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def release(started: list[Forked]) -> None:
    """Wait until all processes said that they are ready, then let them go on in the same moment."""
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


def answers(started: list[Forked], limit_s: float = 60.0) -> list[str]:
    """Return all lines that the processes wrote until they ended."""
    lines: list[str] = []
    for process in started:
        output, _nothing = process.communicate(timeout=limit_s)
        assert process.returncode == 0
        lines += output.splitlines()
    return lines

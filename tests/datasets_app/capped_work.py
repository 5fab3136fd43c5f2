"""What the tests of `datasets_app.capped` let the child do."""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path

from datasets_app.readers import DataError, FileRefused, Limits, Record, RowFault, containers, open_table


def echo(say, **arguments):
    say({"step": 1})
    say({"step": 2})
    sys.stdout.write("a library that prints")
    sys.stdout.flush()
    return arguments


def refuse(say, code):
    raise FileRefused(code, limit=7)


def lie(say):
    raise FileRefused("no_such_code")


def crash(say):
    raise ValueError("a secret cell")


def segfault(say):
    os.kill(os.getpid(), 11)


def eat_memory(say):
    return {"size": len(bytearray(4 << 30))}


def burn_cpu(say):
    while True:
        pass


def write_much(say, path):
    Path(path).write_bytes(b"x" * (8 << 20))
    return {}


def full_disk(say):
    raise OSError(28, "No space left on device")


def surroundings(say):
    return {"environment": dict(os.environ), "core": resource.getrlimit(resource.RLIMIT_CORE)[0]}


def sleep(say):
    say({"pid": os.getpid()})
    time.sleep(120)
    return {}


def unpack_each(say, folder):
    """Unpack every file of a folder; return what became of each: "ok" or the code of its typed error."""
    return {path.name: _unpacked(path) for path in sorted(Path(folder).iterdir())}


def _unpacked(path):
    limits = {"max_rows": 200, "max_bytes": 1 << 20, "max_unpacked_bytes": 1 << 20, "max_columns": 8}
    out = path.with_name("out")
    try:
        containers.unpack(lambda said: None, path=str(path), out=str(out), part="", limits=limits)
        table = open_table(out, limits=Limits(**limits), encoding="utf-8")
        for row in table.records():
            assert isinstance(row, Record | RowFault)
    except DataError as error:
        return error.message and error.code
    except MemoryError:
        return "work_memory"
    finally:
        out.unlink(missing_ok=True)
    return "ok"

"""Work on files of strangers in a child process of bounded memory, time and output.

A file may be made to exhaust whoever reads it. The child that reads it has hard limits of the kernel, no environment
worth stealing, and dies with its parent; what it finds comes back as JSON lines, its refusals as the same `DataError`s
that the readers raise. It knows no Django: only pure modules are called here.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import importlib
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final

from datasets_app.readers.faults import DataError
from datasets_app.readers.sentences import WORK_SENTENCES

logger = logging.getLogger(__name__)

# Called in the child by the function at work, and with the same message in the parent.
Message = dict[str, Any]
OnMessage = Callable[[Message], None]

MIB: Final = 1 << 20
DEFAULT_FILE_BYTES: Final = 16 << 30
PROJECT: Final = Path(__file__).resolve().parent.parent
PR_SET_PDEATHSIG: Final = 1
MAX_OPEN_FILES: Final = 256
LONGEST_LINE: Final = 64 * MIB
# All that the child gets to know; the two settings keep libraries from reserving address space for threads.
ENVIRONMENT: Final = {
    "PATH": os.defpath,
    "LANG": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
}
# What allocators of other languages say before they abort.
OUT_OF_MEMORY: Final = (b"memory allocation of", b"bad_alloc", b"Cannot allocate memory", b"MemoryError")


class WorkRefused(DataError):
    """The work on a file hit one of its bounds, or crashed."""

    sentences = WORK_SENTENCES


def run_capped(
    function_path: str,
    arguments: Mapping[str, Any],
    *,
    memory_bytes: int,
    cpu_seconds: int,
    file_bytes: int = DEFAULT_FILE_BYTES,
    on_message: OnMessage | None = None,
) -> dict[str, Any]:
    """Call `function_path` ("package.module:function") in a capped child and return its answer.

    The function is called as `function(say, **arguments)`; arguments, what it says and what it returns must be JSON.
    `memory_bytes` bounds its address space, `file_bytes` each file it writes. An exception of `on_message` ends the
    child and is passed on. Raises: the child's DataError or OSError; WorkRefused for memory, time, size or a crash.
    """
    limits = {"memory_bytes": memory_bytes, "cpu_seconds": cpu_seconds, "file_bytes": file_bytes}
    order = {"function": function_path, "arguments": dict(arguments), "limits": limits, "parent": os.getpid()}
    with tempfile.TemporaryFile() as complaints:
        with _child(complaints) as child:
            answer = _listen(child, order, on_message)
        complaints.seek(-min(complaints.tell(), 4096), os.SEEK_CUR)
        if "result" in answer:
            return dict(answer["result"])
        raise _refusal(answer, child.returncode, complaints.read(), limits)


@contextlib.contextmanager
def _child(complaints: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Start the child; it has ended when the block has, whatever happens in it."""
    child = subprocess.Popen(
        [sys.executable, "-m", "datasets_app.capped"],
        cwd=PROJECT,
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=complaints,
        start_new_session=True,
    )
    try:
        with child:
            try:
                yield child
                child.wait()
            except BaseException:
                child.kill()
                raise
    finally:
        complaints.seek(0, os.SEEK_END)


def _listen(child: subprocess.Popen[bytes], order: dict[str, Any], on_message: OnMessage | None) -> dict[str, Any]:
    """Give the child its order and pass on what it says; return its last word, {} if it died without one."""
    assert child.stdin is not None
    assert child.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        child.stdin.write(json.dumps(order).encode() + b"\n")
        child.stdin.close()
    while line := child.stdout.readline(LONGEST_LINE):
        try:
            said = json.loads(line)
        except ValueError:  # it died in the middle of a line
            break
        if "message" not in said:
            return dict(said)
        if on_message is not None:
            on_message(said["message"])
    return {}


def _refusal(answer: dict[str, Any], code: int | None, complaints: bytes, limits: dict[str, int]) -> Exception:
    if (error := answer.get("error")) is not None:
        kind = error["kind"]
        if kind == "data":
            return _data_error(error)
        if kind == "os":
            return OSError(error["errno"], os.strerror(error["errno"]))
        if kind in WORK_SENTENCES:
            return _refused(kind, limits)
        logger.error("a capped child failed: %s at %s", error.get("exception"), error.get("places"))
        return _refused("work_crashed", limits)
    if code == -signal.SIGXCPU:
        return _refused("work_too_long", limits)
    if code == -signal.SIGKILL or any(words in complaints for words in OUT_OF_MEMORY):
        return _refused("work_memory", limits)
    logger.error("a capped child ended with code %s", code)
    return _refused("work_crashed", limits)


def _refused(code: str, limits: dict[str, int]) -> WorkRefused:
    return WorkRefused(
        code,
        memory_mib=limits["memory_bytes"] // MIB,
        seconds=limits["cpu_seconds"],
        file_mib=limits["file_bytes"] // MIB,
    )


def _data_error(error: dict[str, Any]) -> DataError:
    """Return the error that the child raised, if it is one of ours, else a crash: the child is not to be trusted."""
    module, _colon, name = str(error["class"]).partition(":")
    found = getattr(importlib.import_module(module), name, None) if module.startswith("datasets_app.") else None
    if isinstance(found, type) and issubclass(found, DataError) and error["code"] in found.sentences:
        return found(error["code"], **error["params"])
    return WorkRefused("work_crashed")


# --- In the child ------------------------------------------------------------------------------------------------


def main() -> int:
    """Do what the first line of standard input orders; answer on standard output."""
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints must not garble the answers
    order = json.loads(sys.stdin.buffer.readline())
    _die_with(order["parent"])
    _limit(order["limits"])
    say = _sayer(channel)
    try:
        answer = {"result": _call(order, say)}
    except Exception as error:  # noqa: BLE001 -- whatever it is, the parent has to know
        answer = {"error": _described(error)}
    channel.write(json.dumps(answer).encode() + b"\n")
    channel.flush()
    return 0


def _call(order: dict[str, Any], say: OnMessage) -> dict[str, Any]:
    module, _colon, name = order["function"].partition(":")
    function = getattr(importlib.import_module(module), name)
    return dict(function(say, **order["arguments"]))


def _sayer(channel: IO[bytes]) -> OnMessage:
    def say(message: Message) -> None:
        channel.write(json.dumps({"message": message}).encode() + b"\n")
        channel.flush()

    return say


def _die_with(parent: int) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died in between
        os._exit(1)


def _limit(limits: dict[str, int]) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core would hold rows
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_OPEN_FILES, MAX_OPEN_FILES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits["file_bytes"], limits["file_bytes"]))
    resource.setrlimit(resource.RLIMIT_CPU, (limits["cpu_seconds"], limits["cpu_seconds"] + 5))
    resource.setrlimit(resource.RLIMIT_AS, (limits["memory_bytes"], limits["memory_bytes"]))


def _described(error: Exception) -> dict[str, Any]:
    """Return an error as the parent can build it again; of one that is not ours only its kind and places."""
    if isinstance(error, DataError):
        kind = type(error)
        return {"kind": "data", "class": f"{kind.__module__}:{kind.__qualname__}", "code": error.code} | {
            "params": error.params
        }
    if isinstance(error, MemoryError):
        return {"kind": "work_memory"}
    if isinstance(error, OSError) and error.errno is not None:
        if error.errno == errno.EFBIG:
            return {"kind": "work_file_too_large"}
        return {"kind": "work_memory"} if error.errno == errno.ENOMEM else {"kind": "os", "errno": error.errno}
    places = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
    return {"kind": "crash", "exception": type(error).__name__, "places": places[-5:]}


if __name__ == "__main__":
    sys.exit(main())

"""Programs of ours as processes that need not import the large libraries again: forked from one that has.

`python -m gpu_worker.trainer` spends two to three seconds of processor time on importing torch and its company, and
Django is not free either. Here the same program runs as `__main__` in a real process, with its own environment, working
directory, streams, signals and exit code; only its imports find the libraries loaded. What is about the start itself,
the death of a parent or the command line is tested with `subprocess`.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.reduction import DupFd
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

PROJECT = Path(__file__).resolve().parent.parent

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["tests.libraries"])
Stream = IO[Any] | int | None


class Forked:
    """A running program, used as `subprocess.Popen` is with text streams."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        stdin: Stream = None,
        stdout: Stream = None,
        stderr: Stream = None,
        start_new_session: bool = False,
    ) -> None:
        """Start it. `arguments`: sys.executable, then a file, `-m module` or `-c program`, then what that is given."""
        assert arguments[0] == sys.executable
        self.args = list(arguments)
        ends = [_ends(stream, number) for number, stream in enumerate((stdin, stdout, stderr))]
        self.stdin, self.stdout, self.stderr = (ours for ours, _theirs in ends)
        streams = tuple(_Descriptor(theirs) for _ours, theirs in ends)
        program = _Program(tuple(self.args[1:]), dict(env), str(cwd), streams, start_new_session)
        self._process = _SERVER.Process(target=program, daemon=True)
        self._process.start()
        for _ours, theirs in ends:
            os.close(theirs)
        self.pid: int = self._process.pid  # type: ignore[assignment]

    @property
    def returncode(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return the exit code. Raises: subprocess.TimeoutExpired."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Read all that it writes until its end. Raises: subprocess.TimeoutExpired."""
        said = {1: "", 2: ""}

        def read(number: int, stream: IO[str]) -> None:
            with stream:
                said[number] = stream.read()

        if self.stdin is not None:
            self.stdin.close()
        streams = [(number, stream) for number, stream in ((1, self.stdout), (2, self.stderr)) if stream is not None]
        readers = [threading.Thread(target=read, args=one, daemon=True) for one in streams if not one[1].closed]
        for reader in readers:
            reader.start()
        self.wait(timeout)
        for reader in readers:
            reader.join(timeout)
        return said[1], said[2]

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


def run(command: Sequence[str], *, env: Mapping[str, str], **_rest: Any) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run` with captured text."""
    child = Forked(command, env=env, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    said, complained = child.communicate()
    return subprocess.CompletedProcess(child.args, child.wait(), said, complained)


def popen(
    command: Sequence[str], *, env: Mapping[str, str], stdout: Stream = None, stderr: Stream = None, **_rest: Any
) -> Forked:
    """As `subprocess.Popen` with text streams."""
    return Forked(command, env=env, cwd=PROJECT, stdout=stdout, stderr=stderr)


# To be put in the place of `subprocess` in a module that starts programs of ours.
forked_subprocess = SimpleNamespace(run=run, Popen=popen, PIPE=subprocess.PIPE)


class _Descriptor:
    """An open file that goes along to the new process."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (DupFd(self.number),)


def _received(handle: Any) -> _Descriptor:
    return _Descriptor(handle.detach())


def _ends(stream: Stream, number: int) -> tuple[IO[str] | None, int]:
    """Return our end of a pipe, or None, and the descriptor for the program, to be closed by us."""
    if stream == subprocess.PIPE:
        reading, writing = os.pipe()
        ours, theirs = (writing, reading) if number == 0 else (reading, writing)
        return os.fdopen(ours, "w" if number == 0 else "r", encoding="utf-8"), theirs
    if stream == subprocess.DEVNULL or (stream is None and number == 0):
        return None, os.open(os.devnull, os.O_RDWR)
    return None, os.dup(number if stream is None else stream if isinstance(stream, int) else stream.fileno())


@dataclass(frozen=True)
class _Program:
    """What the new process becomes."""

    arguments: tuple[str, ...]
    environment: dict[str, str]
    folder: str
    streams: tuple[_Descriptor, ...]
    own_session: bool

    def __call__(self) -> None:
        if self.own_session:
            os.setsid()
        for number, stream in enumerate(self.streams):
            os.dup2(stream.number, number)
            os.close(stream.number)
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 — lives as long as the process
        os.environ.clear()
        os.environ.update(self.environment)
        os.chdir(self.folder)
        what, *rest = self.arguments
        if what == "-m":
            sys.argv, sys.path[:0] = rest, [self.folder]
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        elif what == "-c":
            sys.argv, sys.path[:0] = [what, *rest[1:]], [self.folder]
            exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.argv, sys.path[:0] = [what, *rest], [str(Path(what).parent)]
            runpy.run_path(what, run_name="__main__")

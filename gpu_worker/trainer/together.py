"""`python -m gpu_worker.trainer.together N COMMAND…`: N processes of one command that train together, seen as one.

The supervisor knows this process alone: it hands a stop on to all, ends all when one is lost, and ends as they did,
with the exit code or the signal that a process alone would have had. Without torch, so it costs a few megabytes.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from gpu_worker.trainer.errors import EXIT_FAILED, EXIT_FINISHED, EXIT_STOPPED
from gpu_worker.trainer.limits import MEETING, die_with_parent

# How long the others may take to notice that one of them is gone; then they are killed where they wait for it.
LOST_LIMIT_S = 5.0
_TICK_S = 0.05
# They meet over the loopback, which behind the wall is a network of their own. There NCCL finds neither InfiniBand nor
# the sockets over which it would hand out memory in its newer way.
_MEETING_ON_LOOPBACK = {
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
    "NCCL_IB_DISABLE": "1",
    "NCCL_CUMEM_ENABLE": "0",
    "NCCL_CUMEM_HOST_ENABLE": "0",
}


class Crew:
    """The processes, from start to end."""

    def __init__(self, count: int, command: Sequence[str], meeting: Path) -> None:
        """Start them. What the first one says on standard output is said; of the others only why they failed."""
        self._stop_asked = self._stop_told = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask_to_stop)
        self._said: list[IO[bytes]] = [tempfile.TemporaryFile() for _ in range(count - 1)]  # noqa: SIM115 -- as long as we are
        self._processes = [
            subprocess.Popen(
                command,
                env={**os.environ, **_MEETING_ON_LOOPBACK, **_place(number, count), MEETING: str(meeting)},
                stdin=subprocess.DEVNULL,
                stdout=self._said[number - 1] if number else None,
                close_fds=False,  # the lock of the job folder lasts as long as any of them
            )
            for number in range(count)
        ]
        self._killed: set[int] = set()
        self._deadline: float | None = None

    def _ask_to_stop(self, *_: object) -> None:
        self._stop_asked = True

    def see_through(self) -> int:
        """Return how they ended: an exit code, negative for a signal."""
        while any(process.poll() is None for process in self._processes):
            if self._stop_asked and not self._stop_told:
                self._stop_told = True
                for process in self._processes:
                    process.send_signal(signal.SIGTERM)
            self._end_if_one_is_lost()
            time.sleep(_TICK_S)
        return self._outcome()

    def _end_if_one_is_lost(self) -> None:
        if all(process.poll() in (None, EXIT_FINISHED, EXIT_STOPPED) for process in self._processes):
            return
        self._deadline = self._deadline or time.monotonic() + LOST_LIMIT_S
        if time.monotonic() > self._deadline:
            for number, process in enumerate(self._processes):
                if process.poll() is None:
                    self._killed.add(number)
                    process.kill()

    def _outcome(self) -> int:
        """Return the ending of the one that caused that of the others."""
        own = {number: process.wait() for number, process in enumerate(self._processes) if number not in self._killed}
        if own.get(0) in (EXIT_FINISHED, EXIT_STOPPED, EXIT_FAILED):
            return own[0]
        if signals := [code for code in own.values() if code < 0]:
            return signals[0]
        for number, said in enumerate(self._said, start=1):
            if own.get(number) == EXIT_FAILED:
                sys.stdout.write(_failure_in(said))
                sys.stdout.flush()
                return EXIT_FAILED
        # One stopped while the others were waiting for it, or they lost each other without anybody failing.
        return EXIT_STOPPED


def _place(number: int, count: int) -> dict[str, str]:
    """Return the variables by which torch's launcher tells a process its place."""
    return {
        "RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
    }  # fmt: skip


def _failure_in(said: IO[bytes]) -> str:
    """Return the line in which a process says why it failed; empty if it says nothing."""
    said.seek(0)
    for line in reversed(said.read().decode(errors="replace").splitlines()):
        try:
            if json.loads(line)["event"] == "failed":
                return line + "\n"
        except (ValueError, LookupError, TypeError):
            continue
    return ""


def main(arguments: list[str]) -> int:
    """Start as many processes as the first argument says, and return how they ended."""
    if len(arguments) < 2 or not arguments[0].isdecimal():
        sys.stderr.write("usage: python -m gpu_worker.trainer.together N COMMAND...\n")
        return 2
    die_with_parent()
    with tempfile.TemporaryDirectory(prefix="meeting-") as folder:
        code = Crew(int(arguments[0]), arguments[1:], Path(folder) / "meeting").see_through()
    if code < 0:  # ended by a signal, as its supervisor shall see
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

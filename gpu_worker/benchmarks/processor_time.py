"""Processor time of processes and their children, and what they hold, as the kernel counts it."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_seconds(parent: int) -> float:
    """Return what a process, its living children and those that have ended took, user and system together."""
    total = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        fields = _stat(int(entry.name))
        if fields is None:
            continue
        if int(entry.name) == parent:
            total += sum(int(field) for field in fields[11:15])
        elif int(fields[1]) == parent:
            total += sum(int(field) for field in fields[11:13])
    return total / _TICKS_PER_S


@dataclass(frozen=True)
class Held:
    """What processes hold together: memory that is resident now, and open files, connections among them."""

    resident_mb: float
    files: int


def held_by(parent: int) -> Held:
    """Return what a process and its living children hold."""
    pages = files = 0
    for entry in Path("/proc").iterdir():
        fields = _stat(int(entry.name)) if entry.name.isdigit() else None
        if fields is not None and parent in (int(entry.name), int(fields[1])):
            with suppress(OSError):
                pages += int((entry / "statm").read_text().split()[1])
                files += len(list((entry / "fd").iterdir()))
    return Held(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, files)


def parent_of(process: int) -> int:
    """Return the parent of a process of this machine. Raises: ProcessLookupError."""
    fields = _stat(process)
    if fields is None:
        raise ProcessLookupError(process)
    return int(fields[1])


class Stolen:
    """How much of this machine's processors other machines on the same host took since this was made."""

    def __init__(self) -> None:
        self._before = _machine_ticks()

    def share(self) -> float:
        """Return stolen time as a share of what this machine wanted to use, 0 if it wanted nothing."""
        wanted, stolen = (after - before for before, after in zip(self._before, _machine_ticks(), strict=True))
        return stolen / wanted if wanted else 0.0


def share_of(stolen: float | None) -> str:
    """Return a share as a table has it; None: nobody knows."""
    return "–" if stolen is None else f"{stolen:.0%}"


def _machine_ticks() -> tuple[int, int]:
    """Return what all processors were wanted for, idling left out, and of that what the host gave to others."""
    user, nice, system, _idle, _waiting, interrupts, soft, stolen, *_guests = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    )
    return user + nice + system + interrupts + soft + stolen, stolen


def _stat(process: int) -> list[str] | None:
    """Return the fields of /proc/<process>/stat behind its name: state, parent, …, utime, stime, cutime, cstime."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None

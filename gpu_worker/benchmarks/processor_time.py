"""Processor time of processes and their children, as the kernel counts it."""

from __future__ import annotations

import os
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


def parent_of(process: int) -> int:
    """Return the parent of a process of this machine. Raises: ProcessLookupError."""
    fields = _stat(process)
    if fields is None:
        raise ProcessLookupError(process)
    return int(fields[1])


def _stat(process: int) -> list[str] | None:
    """Return the fields of /proc/<process>/stat behind its name: state, parent, …, utime, stime, cutime, cstime."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None

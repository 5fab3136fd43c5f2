"""What the kernel tells about other processes (Linux' /proc), and a tie between parent and child."""

import contextlib
import ctypes
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class ProcessEntry:
    """One living process. `started` (clock ticks since boot) tells it from a later one with the same id."""

    pid: int
    parent: int
    group: int
    started: int


def process_entry(pid: int) -> ProcessEntry | None:
    """Return the entry of a process, or None when it has ended; a zombie has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    # the name in parentheses may hold blanks and parentheses itself
    state, parent, group, *rest = text.rpartition(")")[2].split()
    if state in "ZX":
        return None
    return ProcessEntry(pid=pid, parent=int(parent), group=int(group), started=int(rest[16]))


def living_processes() -> list[ProcessEntry]:
    """Return the entries of all processes that are alive."""
    entries = (process_entry(int(folder.name)) for folder in Path("/proc").iterdir() if folder.name.isdecimal())
    return [entry for entry in entries if entry is not None]


def has_children(pid: int) -> bool:
    """Tell whether a process has at least one living child."""
    return any(entry.parent == pid for entry in living_processes())


def mentions(pid: int, text: str) -> bool:
    """Tell whether a process has `text` in its command line or environment; False when we may not look."""
    try:
        folder = Path(f"/proc/{pid}")
        return os.fsencode(text) in (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
    except OSError:
        return False


def group_is_alive(group: int) -> bool:
    """Tell whether any process of a process group is alive."""
    return any(entry.group == group for entry in living_processes())


def signal_group(group: int, number: signal.Signals) -> None:
    """Send a signal to every process of a group, if there still is one."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def signal_process(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process, if it still is there."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def die_with_parent(number: signal.Signals) -> Callable[[], None]:
    """Return a function for `preexec_fn`: the new process gets the signal when this one dies, however it dies.

    The kernel sends it when the *thread* that started the child ends, so start children from the main thread.
    """
    libc = ctypes.CDLL(None)
    parent = os.getpid()

    def arrange() -> None:
        libc.prctl(PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # it died in between
            os._exit(1)

    return arrange

"""The processes of an installation under soak: who they are, how much memory each takes, and killing some of them."""

from __future__ import annotations

import os
import random
import signal
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from portal.process_table import ProcessEntry, living_processes

# The command lines by which processes are known; what they start belongs to them.
_ROOTS: Final = {
    "web": ("gunicorn", "TUNEPORT_MODEL_REQUESTS=8"),
    "api": ("gunicorn", "TUNEPORT_MODEL_REQUESTS=120"),
    "queue": ("qcluster", "Q_CLUSTER_NAME=default"),
    "gpu queue": ("qcluster", "Q_CLUSTER_NAME=gpu-"),
    "node agent": ("node_agent", ""),
    "engine": ("gpu_worker.engine", ""),
}
VICTIMS: Final = ("engine", "api", "web", "queue")
_PAGE_MB: Final = os.sysconf("SC_PAGE_SIZE") / 1e6
WARM_UP_S: Final = 60.0
"""So old a process has to be before its memory is looked at: what has just begun is still growing."""
_LEAST_LIFE_S: Final = 60.0


@dataclass(frozen=True)
class Living:
    """One process: its role, and whether it is the first of its role, which started the others."""

    entry: ProcessEntry
    role: str
    is_first: bool

    @property
    def key(self) -> tuple[int, int]:
        """What tells it from another process that gets the same id later."""
        return self.entry.pid, self.entry.started


def processes_of(folder: Path) -> list[Living]:
    """Return the living processes of the installation in a data folder, by role."""
    mark = os.fsencode(str(folder))
    entries = {entry.pid: entry for entry in living_processes()}
    roles: dict[int, str] = {}
    for pid in entries:
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        if mark not in line + environment:
            continue
        for role, (program, variable) in _ROOTS.items():
            if program.encode() in line and variable.encode() in environment:
                roles[pid] = role
    return [Living(entries[pid], role, is_first=roles.get(entries[pid].parent) != role) for pid, role in roles.items()]


@dataclass(frozen=True)
class Kill:
    """One process that was killed, and how long it took until another one of its role was there or answered."""

    role: str
    was_first: bool
    at: float
    recovered_s: float | None


Points = list[tuple[float, float]]
"""Moments and megabytes."""


@dataclass(frozen=True)
class Memory:
    """What the processes of a role took, of which each life counts from the age of WARM_UP_S on.

    `first_mb`, `last_mb`: median of the biggest one in the first and last third of all the time; `begun_mb`,
    `ended_mb`: of the longest life in its own first and last third, with its slope and length.
    """

    role: str
    lives: int
    first_mb: float
    last_mb: float
    begun_mb: float
    ended_mb: float
    slope_mb_per_minute: float
    longest_minutes: float

    @classmethod
    def of(cls, role: str, lives: Sequence[Points]) -> Memory | None:
        """Return the figures of all lives of a role, None if none was long enough."""
        grown = [[one for one in points if one[0] >= points[0][0] + WARM_UP_S] for points in lives]
        grown = [points for points in grown if points and points[-1][0] - points[0][0] >= _LEAST_LIFE_S]
        if not grown:
            return None
        longest = max(grown, key=lambda points: (points[-1][0] - points[0][0], points[-1][1]))
        first, last = _thirds(grown)
        begun, ended = _thirds([longest])
        minutes = (longest[-1][0] - longest[0][0]) / 60
        return cls(role, len(lives), first, last, begun, ended, _slope(longest), minutes)


@dataclass
class Watch:
    """Looks at the processes twice a second, and kills one of them every now and then, from a thread of its own."""

    folder: Path
    seed: int
    every_s: float
    is_up: Callable[[str], bool]
    kills: list[Kill] = field(default_factory=list)
    _samples: dict[tuple[str, tuple[int, int]], Points] = field(default_factory=dict)
    _is_over: threading.Event = field(default_factory=threading.Event)
    _is_calm: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self, victims: Sequence[str] = VICTIMS) -> None:
        """Begin to look, and to kill those of the named roles in a random order in which each has its turn."""
        for work in (self._measure, lambda: self._kill(victims)):
            thread = threading.Thread(target=work, daemon=True)
            thread.start()
            self._threads.append(thread)

    def calm(self) -> None:
        """Kill nobody any more."""
        self._is_calm.set()

    def stop(self) -> None:
        """End both; what was killed last has recovered or has had its time."""
        self._is_calm.set()
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def memory(self) -> list[Memory]:
        """Return what was measured, role by role; those of which no process lived long enough are left out."""
        found = []
        for role in _ROOTS:
            lives = [points for (name, _key), points in self._samples.items() if name == role]
            if (memory := Memory.of(role, lives)) is not None:
                found.append(memory)
        return found

    def _measure(self) -> None:
        while not self._is_over.wait(0.5):
            now = time.monotonic()
            for living in processes_of(self.folder):
                if (mb := _resident_mb(living.entry.pid)) is not None:
                    self._samples.setdefault((living.role, living.key), []).append((now, mb))

    def _kill(self, victims: Sequence[str]) -> None:
        draw, turn = random.Random(self.seed), list[str]()  # noqa: S311 - no secret
        while not self._is_calm.wait(self.every_s * (0.5 + draw.random())):
            if not turn:
                turn = draw.sample(list(victims), len(victims))
            self._kill_one(turn.pop(), draw)

    def _kill_one(self, role: str, draw: random.Random) -> None:
        there = sorted((one for one in processes_of(self.folder) if one.role == role), key=lambda one: one.key)
        if not there:
            return
        victim = draw.choice(there)
        os.kill(victim.entry.pid, signal.SIGKILL)
        at = time.monotonic()
        known = {one.key for one in there}
        while (now := time.monotonic()) - at < 120:
            is_new = any(one.role == role and one.key not in known for one in processes_of(self.folder))
            if is_new and self.is_up(role):
                self.kills.append(Kill(role, victim.is_first, at, now - at))
                return
            time.sleep(0.05)
        self.kills.append(Kill(role, victim.is_first, at, None))


def _resident_mb(pid: int) -> float | None:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_MB
    except (OSError, IndexError):
        return None


def _thirds(lives: Sequence[Points]) -> tuple[float, float]:
    """Return the medians, over the first and the last third of the time, of the biggest process at each moment.

    By the biggest one: a gunicorn master, say, takes less than its workers.
    """
    at_moment: dict[float, float] = {}
    for points in lives:
        for at, mb in points:
            at_moment[at] = max(mb, at_moment.get(at, 0.0))
    begun, ended = min(at_moment), max(at_moment)
    third = (ended - begun) / 3
    first = [mb for at, mb in at_moment.items() if at <= begun + third]
    last = [mb for at, mb in at_moment.items() if at >= ended - third]
    return statistics.median(first), statistics.median(last)


def _slope(points: Points) -> float:
    """Return MB per minute of the straight line through the points."""
    if len(points) < 3:
        return 0.0
    return 60 * statistics.linear_regression(*zip(*points, strict=True)).slope

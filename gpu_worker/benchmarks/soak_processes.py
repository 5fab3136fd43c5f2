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
_WARM_UP_S: Final = 20.0


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


@dataclass(frozen=True)
class Memory:
    """What the processes of a role took: medians of the first and last third, and how the oldest one grew."""

    role: str
    first_mb: float
    last_mb: float
    slope_mb_per_minute: float
    oldest_minutes: float


@dataclass
class Watch:
    """Looks at the processes twice a second, and kills one of them every now and then, from a thread of its own."""

    folder: Path
    seed: int
    every_s: float
    is_up: Callable[[str], bool]
    kills: list[Kill] = field(default_factory=list)
    _samples: dict[tuple[str, tuple[int, int]], list[tuple[float, float]]] = field(default_factory=dict)
    _is_over: threading.Event = field(default_factory=threading.Event)
    _is_calm: threading.Event = field(default_factory=threading.Event)
    _calm_since: float = 0.0
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self, victims: Sequence[str] = VICTIMS) -> None:
        """Begin to look, and to kill those of the named roles in a random order in which each has its turn."""
        for work in (self._measure, lambda: self._kill(victims)):
            thread = threading.Thread(target=work, daemon=True)
            thread.start()
            self._threads.append(thread)

    def calm(self) -> None:
        """Kill nobody any more: from now on memory is judged, since what has just begun is still growing."""
        self._calm_since = time.monotonic()
        self._is_calm.set()

    def stop(self) -> None:
        """End both; what was killed last has recovered or has had its time."""
        self._is_calm.set()
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def memory(self) -> list[Memory]:
        """Return what was measured since `calm`, role by role."""
        since = self._calm_since + _WARM_UP_S if self._calm_since else 0.0
        samples = {key: [point for point in points if point[0] >= since] for key, points in self._samples.items()}
        samples = {key: points for key, points in samples.items() if points}
        moments = [at for points in samples.values() for at, _mb in points]
        if not moments:
            return []
        begun, ended = min(moments), max(moments)
        third = (ended - begun) / 3
        found = []
        for role in _ROOTS:
            # By the biggest one: a gunicorn master, say, takes less than its workers.
            everything = [points for (name, _key), points in samples.items() if name == role]
            if not everything:
                continue
            early = [_biggest(everything, begun, begun + third)]
            late = [_biggest(everything, ended - third, ended)]
            oldest = max(everything, key=lambda points: (points[-1][0] - points[0][0], points[-1][1]))
            found.append(
                Memory(
                    role, statistics.median(early), statistics.median(late),
                    _slope(oldest), (oldest[-1][0] - oldest[0][0]) / 60,
                )
            )  # fmt: skip
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


def _biggest(everything: list[list[tuple[float, float]]], begin: float, end: float) -> float:
    """Return the median, over a span of time, of the biggest process of a role at each moment."""
    at_moment: dict[float, float] = {}
    for points in everything:
        for at, mb in points:
            if begin <= at <= end:
                at_moment[at] = max(mb, at_moment.get(at, 0.0))
    return statistics.median(at_moment.values()) if at_moment else 0.0


def _slope(points: list[tuple[float, float]]) -> float:
    """Return MB per minute of the straight line through the points."""
    if len(points) < 3:
        return 0.0
    return 60 * statistics.linear_regression(*zip(*points, strict=True)).slope

"""Runs trainer and evaluator: own session, clean environment, a wall around, and never longer than their supervisor."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.trials import CHILD_MEMORY_SHARE
from gpu_worker.computing import ALLOCATING
from gpu_worker.wall import Wall, build_wall
from portal.process_table import die_with_parent, signal_group

# Everything else stays behind: above all the database's address and every secret.
_INHERITED = (
    "PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES",
)  # fmt: skip
_NICENESS = 5  # the portal's pages go first where they share a machine with a training
_GPUS = Path("/proc/driver/nvidia/gpus")
_OPEN_FILES = 4096
_LARGEST_FILE_BYTES = 256 * 2**30


@dataclass(frozen=True)
class Surroundings:
    """Where a child runs: in which folder it works, what it inherits, which share of the machine it gets.

    `cache`: where what was compiled for this machine is kept for all runs; it may only read there. None: nothing is.
    `base_model`: the folder of the model that it may read. `walled`: whether the kernel keeps it from everything else,
    above all from `data`, where everybody's rows, adapters and secrets lie. `more_slots`: of a run on several GPUs.
    `processes`: so many train together, and share what one alone would get.
    """

    job: Path
    project: Path
    slot: int
    slots: int
    lock: int
    cache: Path | None = None
    base_model: Path | None = None
    data: Path | None = None
    walled: bool = True
    more_slots: tuple[int, ...] = ()
    processes: int = 1

    def lay_out(self) -> None:
        """Make the folders that the child works in, and a folder that names our packages and nothing else.

        The interpreter lists the folder that it imports from; that of the project may hold everybody's data.
        """
        (self.job / "tmp").mkdir(mode=0o700, exist_ok=True)
        shutil.rmtree(self.code, ignore_errors=True)
        self.code.mkdir()
        for package in self._packages():
            (self.code / package.name).symlink_to(package)
        if self.cache:
            self.cache.mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def code(self) -> Path:
        """Where the child starts."""
        return self.job / "tmp" / "code"

    @contextlib.contextmanager
    def wall(self, command: Sequence[str]) -> Iterator[Wall | None]:
        """Prepare the wall for a child with this command; start it in this block. Raises: OSError."""
        if not self.walled:
            yield None
            return
        named = [Path(word) for word in command if word.startswith("/") and Path(word).is_file()]
        kept = [place for place in (self.base_model, self.cache) if place]
        outside = [self.project, *([self.data] if self.data else [])]
        readable = [*self._packages(), *kept, *named]
        together = self.processes > 1
        with build_wall(readable=readable, writable=[self.job], outside=outside, has_network=together) as wall:
            yield wall

    def _packages(self) -> list[Path]:
        return [init.parent for init in self.project.glob("*/__init__.py")]

    def environment(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """Return the child's whole environment."""
        held = (self.slot, *self.more_slots)
        cores = len(os.sched_getaffinity(0)) * len(held) // max(1, self.slots)
        threads = str(max(1, cores // self.processes))
        private = str(self.job / "tmp")
        chosen = {name: inherited[name] for name in _INHERITED if name in inherited}
        return {
            **chosen,
            **visible_gpus(held[: self.processes], chosen.get("CUDA_VISIBLE_DEVICES")),
            **({"TUNEPORT_CACHE": str(self.cache)} if self.cache else {}),
            "HOME": private,  # so that no library finds a person's credentials
            "TMPDIR": private,
            "PYTHONUNBUFFERED": "1",
            "PYTHONUTF8": "1",
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "TOKENIZERS_PARALLELISM": "false",
            **ALLOCATING,
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "RAYON_NUM_THREADS": threads,
        }


def visible_gpus(slots: Sequence[int], allowed: str | None) -> dict[str, str]:
    """Return the variable that shows each slot its one GPU; nothing on a machine without GPUs."""
    installed = [str(number) for number in range(len(list(_GPUS.iterdir())))] if _GPUS.is_dir() else []
    gpus = [name for name in (allowed or "").split(",") if name] or installed
    return {"CUDA_VISIBLE_DEVICES": ",".join(gpus[slot % len(gpus)] for slot in slots)} if gpus else {}


class ChildProcess:
    """One running trainer or evaluator."""

    def __init__(self, command: Sequence[str], surroundings: Surroundings, *, output: Path, log: Path) -> None:
        """Start `command` with the job folder as its last argument; stdout is appended to `output`, stderr to `log`.

        Call it from the main thread: the kernel ends the child with the thread that started it.
        """
        self.stopped_at: float | None = None
        surroundings.lay_out()
        with output.open("ab") as stdout, log.open("ab") as stderr, surroundings.wall(command) as wall:
            if wall:
                stderr.writelines(sentence.encode() for sentence in wall.missing)
                stderr.flush()
            self._process = subprocess.Popen(
                [*command, str(surroundings.job)],
                cwd=surroundings.code,
                env=surroundings.environment(os.environ),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
                pass_fds=[surroundings.lock],  # the folder stays locked until the last of its writers is gone
                preexec_fn=_arrange(wall, surroundings.processes),
            )

    @property
    def pid(self) -> int:
        """Its process id, and that of its group."""
        return self._process.pid

    def poll(self) -> int | None:
        """Return None while it runs, then its exit code, negative for a signal."""
        return self._process.poll()

    def stop(self, limit_s: float) -> None:
        """Ask it to save and end; kill it once `limit_s` have passed since it was first asked."""
        if self.stopped_at is None:
            self.stopped_at = time.monotonic()
            self._process.send_signal(signal.SIGTERM)
        elif time.monotonic() - self.stopped_at > limit_s:
            signal_group(self.pid, signal.SIGKILL)

    def kill(self) -> int:
        """End it, if it still runs, and everything that it started; return its exit code."""
        signal_group(self.pid, signal.SIGKILL)
        return self._process.wait()


def _arrange(wall: Wall | None, processes: int) -> Callable[[], None]:
    tie = die_with_parent(signal.SIGTERM)
    machine_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = {
        resource.RLIMIT_CORE: 0,  # a core would hold rows and weights
        resource.RLIMIT_NOFILE: _OPEN_FILES,
        resource.RLIMIT_FSIZE: _LARGEST_FILE_BYTES,
    }
    if not _GPUS.is_dir():  # drivers of GPUs reserve far more than they use; there the card's memory is the limit
        limits[resource.RLIMIT_DATA] = int(CHILD_MEMORY_SHARE * machine_bytes / processes)
    allowed = {kind: _allowed(kind, most) for kind, most in limits.items()}

    def arrange() -> None:
        tie()
        for kind, most in allowed.items():
            resource.setrlimit(kind, (most, most))
        os.nice(_NICENESS)
        if wall:
            wall.enter()

    return arrange


def _allowed(kind: int, most: int) -> int:
    """Return `most`, or less where this process itself may not have so much."""
    hard = resource.getrlimit(kind)[1]
    return most if hard == resource.RLIM_INFINITY else min(most, hard)


@dataclass(frozen=True)
class Programs:
    """Which programs train and evaluate, and which compiles what both of them may only read (None: nothing does)."""

    trainer: tuple[str, ...] = (sys.executable, "-m", "gpu_worker.trainer")
    evaluator: tuple[str, ...] = (sys.executable, "-m", "gpu_worker.evaluator")
    compiler: tuple[str, ...] | None = (sys.executable, "-m", "gpu_worker.compiled")

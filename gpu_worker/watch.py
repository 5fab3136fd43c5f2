"""Stays with the child processes of one run: keeps the lease, relays events, notices when the run has to stop."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from django.conf import settings

from experiments import lifecycle
from experiments.leases import Lease
from experiments.models import Run
from experiments.run_events import OUTCOMES, Event
from gpu_worker import compiled
from gpu_worker.child_process import ChildProcess, Surroundings
from gpu_worker.database_patience import Patience
from gpu_worker.event_file import EventFile
from gpu_worker.job_folder import JobFolder
from gpu_worker.trainer.errors import EXIT_STOPPED
from portal.process_table import die_with_parent

T = TypeVar("T")

TICK_S = 0.25
CANCEL_LIMIT_S = 30.0
# Shorter, since whoever shuts the node down kills us too after 30 s.
SHUTDOWN_LIMIT_S = 25.0
# Loading a base model once more, to make an adapter of a checkpoint.
KEEP_LIMIT_S = 120.0


class Stop(StrEnum):
    """Why a run is stopped before its end."""

    CANCEL = "cancel"
    SHUTDOWN = "shutdown"
    DATABASE_GONE = "database_gone"


class Stopped(Exception):
    """The run has to stop while there is no child to stop."""


class ShutdownSwitch:
    """Notices that this machine wants to shut down."""

    def __init__(self) -> None:
        self.is_on = False
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._turn_on)

    def _turn_on(self, *_: object) -> None:
        self.is_on = True


@dataclass(frozen=True)
class Ending:
    """How a child ended: its exit code (negative for a signal) and the last thing it said about its outcome."""

    code: int
    outcome: Event

    def reported(self, name: str) -> bool:
        """Tell whether the child said this of itself."""
        return self.outcome.get("event") == name

    @property
    def was_cut_short(self) -> bool:
        """Whether somebody ended the child from outside, though it had not failed."""
        return not self.reported("failed") and (self.code < 0 or self.code == EXIT_STOPPED)

    @property
    def cause(self) -> str:
        """The signal or exit code, for people."""
        known = {-number.value: number.name for number in signal.Signals}
        return known.get(self.code, f"exit code {self.code}")


class Watch:
    """The watch over one run, from its claim to its end."""

    def __init__(self, lease: Lease, run: Run, switch: ShutdownSwitch) -> None:
        self.lease = lease
        self.folder = JobFolder(run.folder)
        self.slot = run.slot or 0
        self.more_slots = tuple(run.more_slots)
        self.slots = run.node.slots if run.node else 1
        self._base_model = run.base_model.folder
        self._switch = switch
        self._events = EventFile(self.folder.events, run.events_offset)
        self._patience = Patience()
        self._outcome: Event = {}
        self._cancel_requested = False
        self._gave_up_database = False
        self._renew_at = 0.0

    @property
    def stop(self) -> Stop | None:
        """Why the run has to stop, if it has to."""
        if self._cancel_requested:
            return Stop.CANCEL
        if self._switch.is_on:
            return Stop.SHUTDOWN
        return Stop.DATABASE_GONE if self._gave_up_database else None

    def insist(self, action: Callable[[], T]) -> T:
        """Do something with the database, again and again while it is away. Raises: DatabaseGone."""
        return self._patience.insist(action)

    def stay_with(
        self, command: tuple[str, ...], lock: int, *, log: str, processes: int = 1, most_s: float | None = None
    ) -> Ending:
        """Start a child and stay with it to its end, or to ours. Raises: LeaseLost, DatabaseGone, the child gone.

        `processes`: so many of the command work together, one for each slot.
        `most_s`: of a child that saves what a stopped run has learned; it is left alone for so long.
        """
        if processes > 1:
            command = (sys.executable, "-m", "gpu_worker.trainer.together", str(processes), *command)
        began = time.monotonic()
        self._outcome = {}
        surroundings = Surroundings(
            job=self.folder.root,
            project=Path(settings.BASE_DIR),
            slot=self.slot,
            slots=self.slots,
            lock=lock,
            cache=compiled.cache_in(Path(settings.DATA_DIR)),
            base_model=self._base_model,
            data=Path(settings.DATA_DIR),
            walled=settings.TRAINER_WALL,
            more_slots=self.more_slots,
            processes=processes,
        )
        child = ChildProcess(command, surroundings, output=self.folder.events, log=self.folder.root / log)
        try:
            self.folder.note_child(child.pid)
            while child.poll() is None:
                self.tick()
                if most_s is not None:
                    if time.monotonic() - began > most_s:
                        break  # and is killed
                elif self.stop:
                    child.stop(CANCEL_LIMIT_S if self.stop == Stop.CANCEL else SHUTDOWN_LIMIT_S)
                time.sleep(TICK_S)
        finally:
            code = child.kill()  # also what it may have started and left behind
        self.relay_rest()
        return Ending(code, self._outcome)

    def compile_kernels(self, compiler: tuple[str, ...]) -> None:
        """Have the kernels compiled that this machine does not have yet; without them children go on, too.

        In a process of its own, since the lease goes on meanwhile. Raises: LeaseLost, Stopped.
        """
        cache = compiled.cache_in(Path(settings.DATA_DIR))
        if not compiled.missing(cache):
            return
        command = [*compiler, str(cache)]
        process = subprocess.Popen(
            command, cwd=settings.BASE_DIR, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent(signal.SIGTERM)
        )
        try:
            while process.poll() is None:
                self.keep_alive()
                time.sleep(TICK_S)
        finally:
            process.kill()
            process.wait()

    def keep_alive(self) -> None:
        """Renew the lease while there is no child. Raises: LeaseLost, Stopped."""
        self.tick()
        if self.stop:
            raise Stopped

    def tick(self) -> None:
        """Renew the lease when it is time, and relay what was said; a database that is away may stay away a while.

        Raises: LeaseLost.
        """
        with self._patience.bearing():
            if time.monotonic() >= self._renew_at:
                self._cancel_requested |= lifecycle.renew_lease(self.lease)
                self._renew_at = time.monotonic() + settings.LEASE_SECONDS / 4
            self._relay()
        self._gave_up_database |= self._patience.is_over

    def relay_rest(self) -> None:
        """Bring all events into the database, now that nobody writes any more. Raises: LeaseLost, DatabaseGone."""
        self._events.seal()
        while self.insist(self._relay):
            pass

    def _relay(self) -> bool:
        """Bring the next events into the database; return whether there were any. Raises: LeaseLost."""
        batch = self._events.read()
        if batch.is_empty:
            return False
        span = (batch.start, batch.end)
        self._cancel_requested |= lifecycle.record_events(self.lease, batch.events, span=span)
        self._events.advance(batch)
        self._outcome = next((event for event in reversed(batch.events) if event["event"] in OUTCOMES), self._outcome)
        return True

"""Start, watch and end a set of programs in one terminal.

Each program is a service: it runs in a session of its own, its output is shown line by line with its
name in front, and it is started again when it dies. Nothing survives the end of this process: in the
ordinary case all are ended in order, and after kill -9 the kernel sends them SIGTERM.
"""

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, TextIO

from portal.process_table import (
    die_with_parent,
    group_is_alive,
    living_processes,
    mentions,
    process_entry,
    signal_group,
    signal_process,
)

TICK_S = 0.25
CHECK_EVERY_S = 2.0
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
STEADY_S = 60.0
SAME_INTERRUPT_S = 1.0
LONGEST_LINE_BYTES = 65536
COLOURS = (36, 33, 35, 32, 34)
MARK = "TUNEPORT_UP"


@dataclass(frozen=True)
class Service:
    """A program to keep running.

    `is_healthy` is asked with its process id every two seconds; a service that was healthy and is no more
    is started again, and one that never is gets `settle_s`, because a busy machine is slow.
    Services with a smaller `stage` are ended first.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    stage: int = 0
    end_limit_s: float = 25.0
    is_healthy: Callable[[int], bool] | None = None
    settle_s: float = 300.0


class Child:
    """One service and the process that runs it at present."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.process: subprocess.Popen[bytes] | None = None
        self.started_at = 0.0
        self.start_at = 0.0
        self.next_check = 0.0
        self.was_healthy = False
        self.pause_s = FIRST_PAUSE_S

    def start(self, environment: Mapping[str, str]) -> IO[bytes]:
        """Start the process and return its output."""
        self.process = subprocess.Popen(
            list(self.service.command),
            env={**environment, **self.service.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent(signal.SIGTERM),
        )
        self.started_at = time.monotonic()
        self.next_check = self.started_at + CHECK_EVERY_S
        self.was_healthy = False
        assert self.process.stdout is not None
        return self.process.stdout

    @property
    def is_running(self) -> bool:
        """Tell whether the process is there."""
        return self.process is not None and self.process.poll() is None

    def plan_restart(self) -> str:
        """Kill what the dead process left behind and choose when to start it again; return what to say."""
        assert self.process is not None
        signal_group(self.process.pid, signal.SIGKILL)
        if time.monotonic() - self.started_at > STEADY_S:
            self.pause_s = FIRST_PAUSE_S
        self.start_at = time.monotonic() + self.pause_s
        said = f"ended with code {self.process.returncode}, starting it again in {self.pause_s:g} s"
        self.pause_s = min(2 * self.pause_s, LONGEST_PAUSE_S)
        self.process = None
        return said

    def is_ill(self) -> bool:
        """Tell whether the process is there but does not work any more; asks rarely."""
        now = time.monotonic()
        if self.process is None or self.service.is_healthy is None or now < self.next_check:
            return False
        self.next_check = now + CHECK_EVERY_S
        if self.service.is_healthy(self.process.pid):
            self.was_healthy = True
            return False
        return self.was_healthy or now - self.started_at > self.service.settle_s


class ProcessGroup:
    """Runs services until SIGTERM, SIGHUP or Ctrl-C.

    `on_tick` is called some times a second, `before_stage` before the services of that stage are ended.
    `record` is a file in which the running processes are noted for the next start.
    """

    def __init__(
        self,
        services: Sequence[Service],
        *,
        record: Path,
        mark: str,
        on_tick: Callable[[], None] = lambda: None,
        before_stage: Mapping[int, Callable[[], None]] | None = None,
        output: TextIO = sys.stdout,
    ) -> None:
        self.children = [Child(service) for service in services]
        self.record = record
        self.mark = mark
        self.on_tick = on_tick
        self.before_stage = before_stage or {}
        self.output = output
        self.width = max((len(service.name) for service in services), default=0)
        self.selector = selectors.DefaultSelector()
        self.interrupts = 0
        self.interrupted_at = 0.0

    def run(self) -> None:
        """Keep all services running; return when they have been ended on request."""
        self._listen_to_signals()
        self._end_leftovers()
        while not self.interrupts:
            self._start_what_is_due()
            self.pump(TICK_S)
            self.on_tick()
            self._bury_the_dead()
        self.say("tuneport", "ending; press Ctrl-C again to end at once")
        self.end()

    def end(self) -> None:
        """End all services, stage by stage."""
        for stage in sorted({child.service.stage for child in self.children} | set(self.before_stage)):
            self.before_stage.get(stage, lambda: None)()
            self._end_children([child for child in self.children if child.service.stage == stage])
        self.record.unlink(missing_ok=True)

    def wait_for(self, is_over: Callable[[], bool], limit_s: float) -> bool:
        """Show output until `is_over`, for `limit_s` at most or until Ctrl-C comes again; return whether it is over."""
        deadline = time.monotonic() + limit_s
        while not is_over():
            if time.monotonic() > deadline or self.interrupts > 1:
                return False
            self.pump(0.1)
        return True

    def pump(self, limit_s: float) -> None:
        """Show what the services print, for `limit_s` or until a signal comes."""
        deadline = time.monotonic() + limit_s
        interrupts = self.interrupts
        while (left_s := deadline - time.monotonic()) > 0 and interrupts == self.interrupts:
            if not self.selector.get_map():
                time.sleep(min(left_s, 0.05))
                continue
            for key, _ in self.selector.select(left_s):
                self._show_output(key)

    def say(self, name: str, text: str, number: int | None = None) -> None:
        """Print one line with the service's name in front; a terminal that has gone is no reason to stop."""
        label = f"{name:<{self.width}}"
        if number is not None and self.output.isatty() and not os.environ.get("NO_COLOR"):
            label = f"\x1b[{COLOURS[number % len(COLOURS)]}m{label}\x1b[0m"
        with contextlib.suppress(OSError, ValueError):
            print(f"{label} | {text}", file=self.output, flush=True)

    def _listen_to_signals(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._interrupt)
        # a signal also writes a byte here, which ends the wait in select
        waking, wake = socket.socketpair()
        for end in (waking, wake):
            end.setblocking(False)
        signal.set_wakeup_fd(wake.fileno())
        self.selector.register(waking, selectors.EVENT_READ, wake)

    def _interrupt(self, _signal: int, _frame: FrameType | None) -> None:
        # one Ctrl-C or closed terminal can arrive two ways, directly and through make
        if time.monotonic() - self.interrupted_at > SAME_INTERRUPT_S:
            self.interrupts += 1
            self.interrupted_at = time.monotonic()

    def _start_what_is_due(self) -> None:
        for number, child in enumerate(self.children):
            if child.process is None and time.monotonic() >= child.start_at:
                stream = child.start({**os.environ, MARK: self.mark})
                os.set_blocking(stream.fileno(), False)
                self.selector.register(stream, selectors.EVENT_READ, (number, bytearray()))
                self._write_record()

    def _bury_the_dead(self) -> None:
        for number, child in enumerate(self.children):
            if child.process is not None and not child.is_running:
                self.say(child.service.name, child.plan_restart(), number)
            elif child.is_ill():
                self.say(child.service.name, "does not work any more, ending it", number)
                assert child.process is not None
                signal_group(child.process.pid, signal.SIGKILL)

    def _show_output(self, key: selectors.SelectorKey) -> None:
        if isinstance(key.data, socket.socket):
            with contextlib.suppress(BlockingIOError):
                os.read(key.fd, 64)
            return
        number, pending = key.data
        chunk = os.read(key.fd, 65536)
        pending += chunk
        *lines, rest = pending.split(b"\n")
        if len(rest) > LONGEST_LINE_BYTES:
            lines, rest = [*lines, rest], bytearray()
        pending[:] = rest
        if not chunk:
            self.selector.unregister(key.fileobj)
            key.fileobj.close()  # type: ignore[union-attr]  # registered as a file object
            lines += [rest] if rest else []
        for line in lines:
            self.say(self.children[number].service.name, line.decode(errors="replace").rstrip(), number)

    def _end_children(self, children: list[Child]) -> None:
        running = [child for child in children if child.is_running]
        for child in running:
            assert child.process is not None
            signal_process(child.process.pid, signal.SIGTERM)
        limit_s = max((child.service.end_limit_s for child in running), default=0)
        self.wait_for(lambda: not any(child.is_running for child in running), limit_s)
        for child in running:
            assert child.process is not None
            if child.is_running:
                self.say(child.service.name, "did not end in time, killed")
            # workers whose parent has gone are in the same group
            signal_group(child.process.pid, signal.SIGKILL)
            child.process.wait()

    def _write_record(self) -> None:
        pids = [child.process.pid for child in self.children if child.process is not None]
        aside = self.record.with_suffix(".new")
        aside.write_text(json.dumps(pids))
        aside.replace(self.record)

    def _end_leftovers(self) -> None:
        """End what an earlier, killed instance left: members of its process groups that bear our mark."""
        with contextlib.suppress(OSError, ValueError):
            groups = set(json.loads(self.record.read_text()))

            def left() -> list[int]:
                marked = f"{MARK}={self.mark}"
                return [p.pid for p in living_processes() if p.group in groups and mentions(p.pid, marked)]

            for number, limit_s in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 2.0)):
                for pid in left():
                    signal_process(pid, number)
                self.wait_for(lambda: not left(), limit_s)


def end_detached(folder: Path, wait_for: Callable[[Callable[[], bool], float], bool], limit_s: float) -> int:
    """End the supervisors of runs, noted in `folder` as `<run>.pid`, and return how many there were.

    SIGTERM lets each write a checkpoint; who is still there after `limit_s` is killed with its group.
    A note whose process does not mention the run is stale and is ignored.
    """
    noted: dict[int, str] = {}
    for note in folder.glob("*.pid"):
        with contextlib.suppress(OSError, ValueError):
            noted[int(note.read_text().split()[0])] = note.stem
    pids = [pid for pid, run in noted.items() if process_entry(pid) and mentions(pid, run)]
    for pid in pids:
        signal_process(pid, signal.SIGTERM)
    if not wait_for(lambda: not any(map(process_entry, pids)), limit_s):
        for pid in pids:
            signal_group(pid, signal.SIGKILL)
            wait_for(lambda pid=pid: not group_is_alive(pid), 5.0)  # type: ignore[misc]
    return len(pids)

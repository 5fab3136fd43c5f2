"""Real supervisors on a real database: started, killed and watched from outside."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote, urlencode

from django.conf import settings
from django.db import connection
from django.utils import timezone

from experiments import lifecycle, scheduling
from experiments.leases import Lease
from experiments.models import MetricPoint, Run, RunEvent
from portal.models import Node
from portal.rls import all_teams
from tests.experiments.runs import fresh
from tests.forked import Forked

HERE = Path(__file__).resolve().parent
LEASE_SECONDS = 1
FAKE = (sys.executable, str(HERE / "fake_supervise.py"))
CRAMPED = (sys.executable, str(HERE / "cramped_supervise.py"))
REAL = (sys.executable, str(HERE.parents[1] / "manage.py"), "supervise")


def child_environment() -> dict[str, str]:
    """The environment in which a process uses the test's database and data folder."""
    known = connection.settings_dict
    names = {"user": "USER", "password": "PASSWORD", "host": "HOST", "port": "PORT"}
    address = {name: known[key] for name, key in names.items() if known[key]}
    inherited = {name: value for name, value in os.environ.items() if name != "TUNEPORT_EMBEDDED_PG"}
    return {
        **inherited,
        "DATABASE_URL": f"postgresql:///{known['NAME']}?{urlencode(address, quote_via=quote)}",
        "TUNEPORT_DATA_DIR": str(settings.DATA_DIR),
        "TUNEPORT_LEASE_SECONDS": str(LEASE_SECONDS),
        "PYTHONPATH": str(settings.BASE_DIR),
    }


class Workshop:
    """One run and its supervisors. The test plays the queue: what was dispatched is started by `start`."""

    def __init__(self, run: Run, program: tuple[str, ...] = FAKE) -> None:
        self.run = run
        self.program = program
        self.processes: list[subprocess.Popen[bytes] | Forked] = []
        self.log = Path(settings.DATA_DIR) / "supervisors.log"

    def behave(self, **behaviour: object) -> None:
        """Tell the fake children what to do."""
        self.run.folder.mkdir(parents=True, exist_ok=True)
        (self.run.folder / "behaviour.json").write_text(json.dumps(behaviour))

    def dispatch(self) -> Lease:
        """Give the run a slot, and return the lease that its supervisor gets."""
        scheduling.dispatch()
        token = fresh(self.run).lease_token
        assert token is not None, self.run.status
        return Lease(self.run.pk, token)

    def start(self, lease: Lease | None = None) -> subprocess.Popen[bytes] | Forked:
        """Start a supervisor as the node's queue would."""
        lease = lease or self.dispatch()
        with self.log.open("ab") as output:
            start = subprocess.Popen if self.program is REAL else Forked
            process = start(
                [*self.program, str(lease.run_id), str(lease.token)],
                env=child_environment(),
                cwd=settings.BASE_DIR,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def wait_for(self, condition: Callable[[], bool], what: str, limit_s: float = 60.0) -> None:
        """Wait until something has happened, or fail with the supervisors' log."""
        deadline = time.monotonic() + limit_s
        while not condition():
            if time.monotonic() > deadline:
                fresh(self.run)
                state = f"{self.run.status} {self.run.phase} step {self.run.step} {self.run.error_message}"
                raise AssertionError(f"waited in vain for {what}: {state}\n{self.log.read_text()[-4000:]}")
            time.sleep(0.05)

    def wait_for_status(self, *statuses: str) -> None:
        """Wait until the run is in one of these states."""
        self.wait_for(lambda: fresh(self.run).status in statuses, " or ".join(statuses))

    def wait_for_step(self, step: int) -> None:
        """Wait until the database knows of this step."""
        self.wait_for(lambda: fresh(self.run).step >= step, f"step {step}")

    def recover(self) -> Lease:
        """Sweep until the lost run was given out again, and return its new lease."""
        old = fresh(self.run).lease_token

        def swept() -> bool:
            lifecycle.sweep()
            return fresh(self.run).status == "assigned" and self.run.lease_token != old

        self.wait_for(swept, "the sweep")
        return Lease(self.run.pk, self.run.lease_token)

    def trainer_pid(self) -> int:
        """The process id of the running child."""
        return int((self.run.folder / "child.pid").read_text())

    def starts(self) -> list[str]:
        """What the children noted when they started."""
        return (self.run.folder / "starts.log").read_text().splitlines()

    def steps(self) -> list[int]:
        """Steps of all metric points, in order."""
        with all_teams("test"):
            return list(MetricPoint.unscoped.filter(run=self.run).order_by("step").values_list("step", flat=True))

    def messages(self) -> list[str]:
        """The run's log."""
        with all_teams("test"):
            return list(RunEvent.unscoped.filter(run=self.run).order_by("id").values_list("message", flat=True))

    def keep_node_alive(self) -> None:
        """Move the node's heartbeat far ahead; no agent runs in these tests."""
        Node.objects.update(heartbeat_at=timezone.now() + timedelta(hours=1))

    def close(self) -> None:
        """End every process that is left."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.wait()
        with contextlib.suppress(OSError, ValueError):
            os.killpg(self.trainer_pid(), signal.SIGKILL)

"""What the queue calls on a GPU node: it only starts supervisors, since a queue task must be short."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path

from django.conf import settings

from experiments import lifecycle
from experiments.leases import Lease
from gpu_worker.process_note import note_process

# Kept so that ended supervisors are reaped when the next one is started.
_started: list[subprocess.Popen[bytes]] = []


def start_run(run_id: str, lease_token: str) -> bool:
    """Start the supervisor of a run that was given to this node; return whether one was started.

    The message may come late or twice: the lease decides, first here, which is cheap, and then in the claim.
    """
    lease = Lease(uuid.UUID(run_id), uuid.UUID(lease_token))
    if not lifecycle.is_waiting_for(lease):
        return False
    spawn_supervisor(lease)
    return True


def spawn_supervisor(lease: Lease) -> int:
    """Start a supervisor that outlives the queue, and return its process id."""
    log = Path(settings.DATA_DIR) / "logs" / "supervisors" / f"{lease.run_id}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    # Without the queue's own name: what the supervisor enqueues is for the default queue.
    environment = {name: value for name, value in os.environ.items() if name != "Q_CLUSTER_NAME"}
    environment["TUNEPORT_DATA_DIR"] = str(settings.DATA_DIR)
    with log.open("ab") as output:
        process = subprocess.Popen(
            [
                sys.executable,
                str(Path(settings.BASE_DIR) / "manage.py"),
                "supervise",
                str(lease.run_id),
                str(lease.token),
            ],
            cwd=settings.BASE_DIR,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    note_process(lease.run_id, process.pid)  # so that a shutdown in this moment finds it
    _started[:] = [*(known for known in _started if known.poll() is None), process]
    return process.pid

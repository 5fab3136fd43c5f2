"""`manage.py supervise` with a trainer whose memory may run out and a fake evaluator: RUN LEASE_TOKEN."""

import os
import sys
import uuid
from pathlib import Path

import django

HERE = Path(__file__).resolve().parent
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
django.setup()

from experiments.leases import Lease  # noqa: E402
from gpu_worker.child_process import Programs  # noqa: E402
from gpu_worker.supervisor import supervise  # noqa: E402
from gpu_worker.watch import ShutdownSwitch  # noqa: E402

programs = Programs(
    trainer=(sys.executable, str(HERE / "cramped_trainer.py")),
    evaluator=(sys.executable, str(HERE / "fake_evaluator.py")),
)
supervise(Lease(uuid.UUID(sys.argv[1]), uuid.UUID(sys.argv[2])), switch=ShutdownSwitch(), programs=programs)

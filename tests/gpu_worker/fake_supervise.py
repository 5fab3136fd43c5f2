"""`manage.py supervise` with the fake trainer and evaluator: RUN LEASE_TOKEN."""

import os
import sys
import uuid
from pathlib import Path

import django

HERE = Path(__file__).resolve().parent
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
django.setup()

from experiments.leases import Lease  # noqa: E402
from gpu_worker import watch  # noqa: E402
from gpu_worker.child_process import Programs  # noqa: E402
from gpu_worker.supervisor import supervise  # noqa: E402
from gpu_worker.watch import ShutdownSwitch  # noqa: E402

# Not the half minute that a large model may take to save: a fake that listens ends at once.
watch.CANCEL_LIMIT_S = 5.0
fakes = Programs(
    trainer=(sys.executable, str(HERE / "fake_trainer.py")),
    evaluator=(sys.executable, str(HERE / "fake_evaluator.py")),
    # The fakes use no kernels, and compiling takes seconds.
    **({} if "REAL_COMPILER" in os.environ else {"compiler": None}),
)
supervise(Lease(uuid.UUID(sys.argv[1]), uuid.UUID(sys.argv[2])), switch=ShutdownSwitch(), programs=fakes)

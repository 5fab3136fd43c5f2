"""`manage.py supervise RUN LEASE_TOKEN`: see one run through. Started by the queue, not by people."""

import argparse
import os
import uuid
from typing import Any

from django.core.management.base import BaseCommand

from experiments.leases import Lease
from gpu_worker.supervisor import supervise
from gpu_worker.watch import ShutdownSwitch


class Command(BaseCommand):
    """Supervise one run to its end."""

    help = "Train one run that was given to this node. Started by the queue."
    # The queue that starts us has checked the system; here it would only cost time.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument("run", type=uuid.UUID)
        parser.add_argument("lease_token", type=uuid.UUID)

    def handle(self, *args: Any, **options: Any) -> None:
        """Supervise the run."""
        switch = ShutdownSwitch()
        # A database host that swallows packets must not keep us from watching the child.
        os.environ.setdefault("PGCONNECT_TIMEOUT", "5")
        supervise(Lease(options["run"], options["lease_token"]), switch=switch)

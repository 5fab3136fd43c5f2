"""`manage.py node_agent`: serve models on this machine and tell the portal about it."""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import threading
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from gpu_worker.node import NodeAgent


class Command(BaseCommand):
    """Run the node's agent until SIGTERM or Ctrl-C."""

    help = "Register this machine as a node, keep its inference engines running and the wanted adapters loaded."
    requires_system_checks: list[str] = []  # the web process checks

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the options."""
        parser.add_argument("--name", default=settings.NODE_NAME, help="the node's name (default: %(default)s)")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run; return when all engines have ended."""
        lock = only_agent(Path(settings.DATA_DIR) / "run" / f"node-{options['name']}.lock")
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: stop.set())
        NodeAgent(options["name"]).run(stop)
        os.close(lock)


def only_agent(path: Path) -> int:
    """Take the lock that one agent per node holds. Raises: CommandError when another has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise CommandError("Another agent already serves this node. Give this one another --name.") from None
    return descriptor

"""`manage.py up`: the whole portal in one terminal."""

import argparse
import fcntl
import http.client
import importlib
import os
import re
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from portal import embedded_postgres
from portal.process_table import has_children
from portal.processes import ProcessGroup, Service, end_detached

DEFAULT_PORT = 8000
# Threads of a process, and how many of them may wait for engines: the rest answers pages and says no.
WEB_THREADS, WEB_MODEL_REQUESTS = 16, 8
API_THREADS, API_MODEL_REQUESTS = 128, 120
# Database connections that the threads of a process share, besides those of portal.lane: for moments only.
DATABASE_POOL = 16
PORTS_TO_TRY = 50
CHECKPOINT_LIMIT_S = 30.0
DATABASE_CHECK_EVERY_S = 3.0
WEB_STAGE, RUNS_STAGE, NODE_STAGE = 0, 1, 2


class Command(BaseCommand):
    """Start the web server, the queues and the GPU node, and watch them until Ctrl-C."""

    help = "Run the portal: web server, queues and GPU node in one terminal."
    # the services check themselves; here it would only cost time
    requires_system_checks = ()

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the options."""
        parser.add_argument(
            "--port", type=int, help=f"port of the pages; without it, the first free from {DEFAULT_PORT}"
        )
        parser.add_argument(
            "--api-port", type=int, help="port of /v1 alone, for many streams; without it, the first free behind --port"
        )
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
        parser.add_argument("--node", default=default_node_name(), help="name of this GPU node (default: %(default)s)")
        parser.add_argument("--no-web", action="store_true", help="only a GPU node: no pages, no default queue")
        parser.add_argument("--no-gpu", action="store_true", help="no GPU node: pages and default queue only")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run until asked to end; leave nothing behind."""
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", options["node"]):
            raise CommandError("A node's name consists of a-z, 0-9 and -, for example gpu-1.")
        run_folder = Path(settings.DATA_DIR) / "run"
        run_folder.mkdir(parents=True, exist_ok=True)
        lock = only_instance(run_folder / "up.lock")
        os.environ["TUNEPORT_NODE"] = options["node"]
        os.environ["PYTHONUNBUFFERED"] = "1"
        services: list[Service] = []
        ticks: list[Callable[[], None]] = [watch_database()] if os.environ.get("TUNEPORT_EMBEDDED_PG") else []
        group: ProcessGroup
        if not options["no_web"]:
            port = chosen_port(options["host"], options["port"])
            api_port = chosen_port(options["host"], options["api_port"], first=port + 1)
            services += [web(options["host"], port), api(options["host"], api_port), queue("default")]
            ticks.append(announce(options["host"], port, api_port, lambda line: group.say("tuneport", line)))
        if not options["no_gpu"]:
            services += [queue(f"gpu-{options['node']}"), node(options["node"])]

        def tick() -> None:
            for act in ticks:
                act()

        def end_runs() -> None:
            count = end_detached(run_folder / "supervisors", group.wait_for, CHECKPOINT_LIMIT_S)
            if count:
                group.say("tuneport", f"running trainings that were stopped after a checkpoint: {count}")

        group = ProcessGroup(
            services,
            record=run_folder / "services.json",
            mark=str(settings.DATA_DIR),
            on_tick=tick,
            before_stage={RUNS_STAGE: end_runs},
        )
        group.run()
        end_database(group)
        os.close(lock)


def only_instance(path: Path) -> int:
    """Take the lock that one `up` per data folder holds. Raises: CommandError when another has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.read(descriptor, 32).decode() or "unknown"
        raise CommandError(f"The portal is already running on {path.parent.parent} (process {pid}).") from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode())
    return descriptor


def default_node_name() -> str:
    """Return this machine's name in the letters that a queue's name may have."""
    return re.sub(r"[^a-z0-9]+", "-", socket.gethostname().split(".")[0].lower()).strip("-")[:63].strip("-") or "local"


def chosen_port(host: str, wanted: int | None, *, first: int | None = None) -> int:
    """Return the port to listen on. Raises: CommandError when the wanted one, or every one tried, is taken."""
    if wanted is not None:
        if not is_free(host, wanted):
            raise CommandError(
                f"Port {wanted} on {host} cannot be used: another program listens there, or it is forbidden."
            )
        return wanted
    first = DEFAULT_PORT if first is None else first
    for port in range(first, first + PORTS_TO_TRY):
        if is_free(host, port):
            if port != first:
                sys.stdout.write(f"Port {first} is taken by another program; using {port}.\n")
            return port
    raise CommandError(
        f"No free port from {first} to {first + PORTS_TO_TRY - 1} on {host}; choose one with --port and --api-port."
    )


def is_free(host: str, port: int) -> bool:
    """Tell whether a server can listen on a port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as gunicorn does
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def web(host: str, port: int) -> Service:
    """Return the web server: pages, and /v1 for those who know only this port, in a part of its threads."""
    limits = {"--max-requests": "2000", "--max-requests-jitter": "200"}
    return gunicorn("web", host, port, threads=WEB_THREADS, model_requests=WEB_MODEL_REQUESTS, **limits)


def api(host: str, port: int) -> Service:
    """Return the server of /v1: threads, because a stream through the proxy holds one for as long as it lasts.

    Its streams cannot take what pages need, whatever their number: those have a server of their own.
    """
    limits = {"--max-requests": "500000", "--max-requests-jitter": "50000", "--keep-alive": "30"}
    return gunicorn("api", host, port, threads=API_THREADS, model_requests=API_MODEL_REQUESTS, **limits)


def gunicorn(name: str, host: str, port: int, *, threads: int, model_requests: int, **more: str) -> Service:
    """Return a server of the one code base, with two processes."""
    shared_memory = Path("/dev/shm")  # noqa: S108 - gunicorn's heartbeat files must not wait for a slow disk
    heartbeat = shared_memory if os.access(shared_memory, os.W_OK) else Path(settings.DATA_DIR) / "run"
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    options = {
        "--bind": address,
        "--worker-class": "portal.gunicorn_worker.BoundedThreads",
        "--workers": "2",
        "--worker-connections": "4000",
        "--threads": str(threads),
        "--timeout": "120",
        "--graceful-timeout": "20",
        "--worker-tmp-dir": str(heartbeat),
        "--log-level": "warning",
        "--chdir": str(settings.BASE_DIR),
        **more,
    }
    flat = [text for option in options.items() for text in option]
    command = [sys.executable, "-m", "gunicorn", "portal.wsgi:application", "--no-control-socket", *flat]
    environment = {"TUNEPORT_MODEL_REQUESTS": str(model_requests), "TUNEPORT_DATABASE_POOL": str(DATABASE_POOL)}
    return Service(name, command, environment, stage=WEB_STAGE)


def queue(cluster: str) -> Service:
    """Return the workers of one queue. Their main process does not notice when its only child dies; we do."""
    environment = {"Q_CLUSTER_NAME": cluster}
    return Service(cluster, manage("qcluster"), environment, stage=WEB_STAGE, is_healthy=has_children)


def node(name: str) -> Service:
    """Return the agent of this GPU node; it ends after the runs, because they report to it."""
    return Service("node", manage("node_agent", "--name", name), stage=NODE_STAGE)


def manage(*arguments: str) -> list[str]:
    """Return the command line of a management command."""
    return [sys.executable, str(Path(settings.BASE_DIR) / "manage.py"), *arguments]


def announce(host: str, port: int, api_port: int, say: Callable[[str], None]) -> Callable[[], None]:
    """Return a function that asks /healthz until it answers, and then says how to get in, once."""
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - what to ask, not where to listen
    shown = f"[{reached}]" if ":" in reached else reached
    address, api_address = f"http://{shown}:{port}", f"http://{shown}:{api_port}/v1"
    started = time.monotonic()
    done = False

    def tick() -> None:
        nonlocal done
        if done or not answers(reached, port):
            return
        done = True
        say(f"ready after {time.monotonic() - started:.0f} s: {address}")
        say(f"the same API for many requests at once: {api_address}")
        for line in welcome_lines(address):
            say(line)

    return tick


def answers(host: str, port: int) -> bool:
    """Tell whether the web server answers within a second; in production it may answer with a redirection."""
    connection = http.client.HTTPConnection(host, port, timeout=1)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status < 500
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def welcome_lines(address: str) -> list[str]:
    """Return what the demo data has to say to a first visitor, if there is demo data."""
    try:
        demo = importlib.import_module("portal.demo")
    except ModuleNotFoundError:
        return []
    lines: list[str] = demo.welcome_lines(address)
    return lines


def watch_database() -> Callable[[], None]:
    """Return a function that brings the embedded server back when even its keeper was killed."""
    next_check = 0.0

    def tick() -> None:
        nonlocal next_check
        if time.monotonic() < next_check:
            return
        next_check = time.monotonic() + DATABASE_CHECK_EVERY_S
        if not embedded_postgres.is_kept(Path(os.environ["TUNEPORT_EMBEDDED_PG"])):
            try:
                embedded_postgres.provide(os.environ)
            except embedded_postgres.EmbeddedPostgresError as error:
                sys.stderr.write(f"{error}\n")

    return tick


def end_database(group: ProcessGroup) -> None:
    """Stop the embedded server now unless somebody else uses it, instead of some seconds later."""
    root = os.environ.get("TUNEPORT_EMBEDDED_PG")
    if root:
        embedded_postgres.release(Path(root))
        if not embedded_postgres.stop(Path(root), only_if_unused=True):
            group.say("tuneport", "PostgreSQL goes on, because another process uses it")
    group.say("tuneport", "ended")

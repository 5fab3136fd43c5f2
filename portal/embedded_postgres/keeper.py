"""The keeper: the detached parent of one embedded server.

It reaps and restarts a server that dies, and stops it when no process has used it for some seconds.
Started by `portal.embedded_postgres.starter` as `python -m portal.embedded_postgres.keeper …`.
"""

import argparse
import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

from portal.embedded_postgres.binaries import server_account
from portal.embedded_postgres.cluster import PORT, Cluster, lock, make_private_folder
from portal.process_table import die_with_parent

POLL_S = 0.25
SHUTDOWN_S = 60.0
RESTART_PAUSE_S = 0.5
# Orphans of a killed server hold its shared memory for some seconds, and a new one refuses until they are gone.
MOST_QUICK_RESTARTS = 40
QUICK_S = 5.0


class Keeper:
    """Runs one cluster's server until nobody uses it or SIGTERM comes."""

    def __init__(self, cluster: Cluster, binaries: Path, idle_s: float) -> None:
        self.cluster = cluster
        self.binaries = binaries
        self.idle_s = idle_s
        self.account = server_account()
        self.asked_to_stop = False
        self.free_since: float | None = None

    def run(self) -> int:
        """Keep the server running; return the exit code."""
        signal.signal(signal.SIGTERM, self._ask_to_stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        make_private_folder(self.cluster.sockets, self.account.uid, self.account.gid)
        users = os.open(self.cluster.users_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        end_survivor(self.cluster)
        quick_ends = 0
        while quick_ends < MOST_QUICK_RESTARTS:
            started = time.monotonic()
            server = self._launch()
            if self._watch(server, users):
                return 0
            quick_ends = quick_ends + 1 if time.monotonic() - started < QUICK_S else 0
            say(f"the server ended with code {server.returncode}, starting it again")
            time.sleep(RESTART_PAUSE_S)
        say("the server does not stay up, giving up")
        return 1

    def _ask_to_stop(self, _signal: int, _frame: FrameType | None) -> None:
        self.asked_to_stop = True

    def _launch(self) -> "subprocess.Popen[bytes]":
        """Start the server as our child."""
        self.cluster.remove_stale_files()
        command = [str(self.binaries / "postgres"), "-D", str(self.cluster.data), *server_options(self.cluster)]
        # a killed keeper must not leave a server that nobody ever stops; SIGINT is a fast, clean shutdown
        arrange = die_with_parent(signal.SIGINT)
        return subprocess.Popen(
            command, cwd="/", stdin=subprocess.DEVNULL, preexec_fn=arrange, **self.account.popen_arguments()
        )

    def _watch(self, server: "subprocess.Popen[bytes]", users: int) -> bool:
        """Wait for the server's end; return whether it was ended on purpose."""
        while server.poll() is None:
            if self.asked_to_stop or self._is_idle(users):
                # users stays locked exclusively when idle: newcomers wait until this server is gone
                shut_down(server)
                with contextlib.suppress(OSError):
                    self.cluster.sockets.rmdir()
                return True
            time.sleep(POLL_S)
        return self.asked_to_stop

    def _is_idle(self, users: int) -> bool:
        """Tell whether nobody has held the users' lock for `idle_s`; if so, it is ours from now on."""
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.free_since = None
            return False
        self.free_since = self.free_since or time.monotonic()
        if time.monotonic() - self.free_since >= self.idle_s:
            return True
        fcntl.flock(users, fcntl.LOCK_UN)
        return False


def server_options(cluster: Cluster) -> list[str]:
    """Return the settings as command line options, so that a new version of them reaches old clusters.

    No TCP: only processes that may enter the socket's folder can even ask for a password.
    """
    settings = {
        "port": str(PORT),
        "listen_addresses": "",
        "unix_socket_directories": '"' + str(cluster.sockets).replace('"', '""') + '"',
        "unix_socket_permissions": "0700",
        "max_connections": "200",
        "shared_buffers": "128MB",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_min_duration_statement": "2s",
        "idle_in_transaction_session_timeout": "10min",
    }
    return [argument for name, value in settings.items() for argument in ("-c", f"{name}={value}")]


def shut_down(server: "subprocess.Popen[bytes]") -> None:
    """Stop the server: fast (finish the log, drop the clients), at once if that takes too long."""
    server.send_signal(signal.SIGINT)
    try:
        server.wait(SHUTDOWN_S)
    except subprocess.TimeoutExpired:
        server.send_signal(signal.SIGQUIT)
        server.wait()


def end_survivor(cluster: Cluster) -> None:
    """Wait for the end of a server whose keeper was killed; it has had its signal already."""
    deadline = time.monotonic() + SHUTDOWN_S
    while (pid := cluster.postmaster()) is not None:
        os.kill(pid, signal.SIGINT if time.monotonic() < deadline else signal.SIGQUIT)
        time.sleep(POLL_S)


def say(sentence: str) -> None:
    """Add a line to the server's log, where our standard error goes."""
    print(f"keeper {os.getpid()}: {sentence}", file=sys.stderr, flush=True)  # noqa: T201 - the log is stderr


def take_keeper_lock(cluster: Cluster) -> int | None:
    """Return the lock that makes this process the keeper, or None if there is another one."""
    for _ in range(8):  # somebody may just be asking whether there is a keeper, which takes the lock for a moment
        descriptor = lock(cluster.keeper_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if descriptor is not None:
            return descriptor
        time.sleep(POLL_S)
    return None


def main() -> int:
    """Become the keeper, detach from the process that started us, then keep the server.

    Our parent waits for the process that detaches, so that when it goes on there is a keeper and no zombie.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("home", type=Path)
    parser.add_argument("binaries", type=Path)
    parser.add_argument("--idle", type=float, required=True, metavar="SECONDS")
    arguments = parser.parse_args()
    cluster = Cluster(arguments.home)
    descriptor = take_keeper_lock(cluster)
    if descriptor is None:
        return 0
    if child := os.fork():  # the child inherits the lock
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(child).encode())
        os._exit(0)
    os.chdir("/")
    return Keeper(cluster, arguments.binaries, arguments.idle).run()


if __name__ == "__main__":
    sys.exit(main())

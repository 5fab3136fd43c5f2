"""Make, start, join and stop the embedded server."""

import fcntl
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path

from portal.embedded_postgres.binaries import SYSTEM_FOLDER, Account, find_binaries, reachable_binaries, server_account
from portal.embedded_postgres.cluster import Cluster, EmbeddedPostgresError, lock
from portal.embedded_postgres.creation import (
    DATABASE,
    ROLE,
    accepts_connections,
    make_cluster,
    plain_environment,
    prepare_database,
)

PROJECT = Path(__file__).resolve().parents[2]
ORIGIN = "origin"
IDLE_S = 5.0
# Recovery after a crash reads the whole log since the last checkpoint, which may take minutes.
START_LIMIT_S = 180.0
LARGEST_LOG_BYTES = 16 * 1024 * 1024

# The lock of each cluster that this process uses; forked children share it.
_held: dict[Path, int] = {}


def provide(environ: MutableMapping[str, str]) -> None:
    """Put DATABASE_URL of the embedded server into `environ`, unless another database is set there.

    The server's files lie in `pg` below TUNEPORT_DATA_DIR, or below `var` of the project.
    TUNEPORT_EMBEDDED_PG marks the URL as ours, so that a child process that inherits both joins the
    server's users too: a run that outlives the portal keeps its database.
    """
    if environ.get("DATABASE_URL") and not environ.get("TUNEPORT_EMBEDDED_PG"):
        return
    root = Path(environ.get("TUNEPORT_DATA_DIR") or PROJECT / "var").resolve() / "pg"
    environ["DATABASE_URL"] = ensure(root)
    environ["TUNEPORT_EMBEDDED_PG"] = str(root)


def ensure(root: Path, *, idle_s: float = IDLE_S) -> str:
    """Return the DATABASE_URL of the server below `root`, making and starting it when needed.

    This process counts as a user from now on until it ends or calls `release`. The server stops
    `idle_s` seconds after the last user has gone.
    Raises: EmbeddedPostgresError with a sentence that says what to do.
    """
    account = server_account()
    base = reachable_root(root.resolve(), account)
    cluster = existing_cluster(base)
    if cluster is None:
        cluster = new_home(base)
    if cluster.home not in _held:
        descriptor = lock(cluster.users_lock, fcntl.LOCK_SH)  # waits while a keeper is stopping the server
        assert descriptor is not None
        _held[cluster.home] = descriptor
    if not accepts_connections(cluster):
        with starting(cluster):
            start(cluster, account, idle_s)
    return cluster.url(ROLE, DATABASE)


def release(root: Path) -> None:
    """Stop being a user of the server below `root`."""
    base = known_root(root.resolve())
    for home in [home for home in _held if home.parent == base]:
        os.close(_held.pop(home))


def is_kept(root: Path) -> bool:
    """Tell whether the server below `root` has a living keeper, which restarts it when it dies."""
    cluster = existing_cluster(known_root(root.resolve()))
    return cluster is not None and cluster.keeper() is not None


def stop(root: Path, *, only_if_unused: bool = False) -> bool:
    """Stop the server below `root` and wait for its end; return whether it is stopped now.

    With `only_if_unused` a server that other processes use is left alone.
    """
    cluster = existing_cluster(known_root(root.resolve()))
    keeper = cluster.keeper() if cluster else None
    if cluster is None or keeper is None:
        return True
    users = None
    if only_if_unused:
        users = lock(cluster.users_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # held by the keeper: it probes for a moment, or is stopping the server already
        for _ in range(20):
            if users is not None:
                break
            time.sleep(0.02)
            users = lock(cluster.users_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if users is None:
            return cluster.keeper() is None
    os.kill(keeper, signal.SIGTERM)
    while cluster.keeper() == keeper:
        time.sleep(0.02)
    if users is not None:
        os.close(users)
    return True


def reachable_root(root: Path, account: Account) -> Path:
    """Return the folder for the cluster: `root`, or one elsewhere when the server's account cannot enter it.

    That is so below root's home. The other place is written down in `root/place`, so that removing
    `root` also forgets the database.
    """
    place = root / "place"
    if place.exists():
        return known_root(root)
    make_folder(root)
    if account.can_enter(root):
        return root
    remove_forgotten_trials()
    elsewhere = SYSTEM_FOLDER / f"pg-{secrets.token_hex(8)}"
    make_folder(elsewhere)
    (elsewhere / ORIGIN).write_text(f"{root}\n")
    aside = place.with_suffix(f".{os.getpid()}")
    aside.write_text(f"{elsewhere}\n")
    try:
        os.link(aside, place)  # fails if another process was first
    except FileExistsError:
        shutil.rmtree(elsewhere)
    finally:
        aside.unlink()
    return known_root(root)


def remove_forgotten_trials() -> None:
    """Remove clusters that were moved here from a temporary folder which is gone, as after test runs.

    Only those: elsewhere a missing folder may just be a disk that is not mounted at the moment.
    """
    for note in SYSTEM_FOLDER.glob(f"pg-*/{ORIGIN}"):
        origin = Path(note.read_text().strip())
        is_temporary = origin.is_relative_to(Path(tempfile.gettempdir()).resolve())
        cluster = existing_cluster(note.parent)
        if is_temporary and not origin.exists() and (cluster is None or cluster.keeper() is None):
            shutil.rmtree(note.parent, ignore_errors=True)


def known_root(root: Path) -> Path:
    """Return where the cluster of `root` lies."""
    place = root / "place"
    return Path(place.read_text().strip()) if place.exists() else root


def make_folder(path: Path) -> None:
    """Make `path` and its missing parents, enterable by the server's account whatever our umask is."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)


def existing_cluster(base: Path) -> Cluster | None:
    """Return the cluster of the newest version below `base`, if there is one."""
    majors = sorted((int(home.name) for home in base.glob("[0-9]*") if home.name.isdecimal()), reverse=True)
    clusters = [Cluster(base / str(major)) for major in majors]
    return next((cluster for cluster in clusters if cluster.exists()), None)


def new_home(base: Path) -> Cluster:
    """Return the place for a cluster of the version that is installed."""
    _, major = find_binaries(None)
    home = base / str(major)
    make_folder(home)
    return Cluster(home)


@contextmanager
def starting(cluster: Cluster) -> Iterator[None]:
    """Let one process at a time make or start the cluster."""
    descriptor = lock(cluster.start_lock, fcntl.LOCK_EX)
    assert descriptor is not None
    try:
        yield
    finally:
        os.close(descriptor)


def start(cluster: Cluster, account: Account, idle_s: float) -> None:
    """Bring the server up: cluster, keeper, role and database, each only if it is missing.

    To be called with the start lock held. Raises: EmbeddedPostgresError with the end of the server's log.
    """
    binaries, _ = find_binaries(int(cluster.home.name))
    binaries = reachable_binaries(binaries, account)
    if not cluster.exists():
        make_cluster(cluster, binaries, account)
    keepers = 0
    deadline = time.monotonic() + START_LIMIT_S
    while not prepare_database(cluster):
        if cluster.keeper() is None:
            if keepers == 3:
                break
            keepers += 1
            spawn_keeper(cluster, binaries, idle_s)
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    else:
        return
    last_lines = "\n".join(cluster.log.read_text(errors="replace").splitlines()[-8:])
    raise EmbeddedPostgresError(f"PostgreSQL did not start. The end of {cluster.log}:\n{last_lines}")


def spawn_keeper(cluster: Cluster, binaries: Path, idle_s: float) -> None:
    """Start the detached keeper, which starts the server."""
    if cluster.log.exists() and cluster.log.stat().st_size > LARGEST_LOG_BYTES:
        cluster.log.replace(cluster.log.with_suffix(".log.1"))
    command = [
        sys.executable,
        "-m",
        "portal.embedded_postgres.keeper",
        str(cluster.home),
        str(binaries),
        "--idle",
        str(idle_s),
    ]
    log = os.open(cluster.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        subprocess.run(
            command,
            cwd=PROJECT,
            env=plain_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            check=True,
        )
    finally:
        os.close(log)

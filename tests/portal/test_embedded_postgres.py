"""The embedded PostgreSQL server, with real processes that are really killed."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from portal import embedded_postgres
from portal.embedded_postgres.cluster import Cluster
from portal.embedded_postgres.starter import existing_cluster, known_root, remove_forgotten_trials

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).resolve().parents[2]
IDLE_S = 1.0
USER = f"""
import sys
from pathlib import Path
from portal.embedded_postgres import ensure
print(ensure(Path(sys.argv[1]), idle_s={IDLE_S}), flush=True)
sys.stdin.read()
"""


@contextmanager
def server_folder(name: str) -> Iterator[Path]:
    """Yield a folder that PostgreSQL's account can reach (pytest's own are closed to it), then stop and remove all."""
    with tempfile.TemporaryDirectory(prefix="pg test ") as base:
        Path(base).chmod(0o755)
        root = Path(base) / name
        try:
            yield root
        finally:
            embedded_postgres.release(root)
            embedded_postgres.stop(root)


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """A server shared by the tests of this file; its path has a space."""
    with server_folder("pg") as folder:
        yield folder


@contextmanager
def user_process(root: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that uses the server until its standard input closes."""
    process = subprocess.Popen(
        [sys.executable, "-c", USER, str(root)], cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        process.url = process.stdout.readline().strip()  # type: ignore[attr-defined]
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_until(happens: Callable[[], object], limit_s: float = 20) -> float:
    """Wait for something and return how long it took."""
    started = time.monotonic()
    while not happens():
        assert time.monotonic() - started < limit_s, "did not happen in time"
        time.sleep(0.05)
    return time.monotonic() - started


def cluster_of(root: Path) -> Cluster:
    """The cluster below `root`."""
    cluster = existing_cluster(known_root(root.resolve()))
    assert cluster is not None
    return cluster


def value(url: str, query: str) -> object:
    """The single value that a query gives."""
    with psycopg.connect(url, connect_timeout=5) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def test_the_portal_gets_a_role_that_row_level_security_binds(root: Path) -> None:
    url = embedded_postgres.ensure(root, idle_s=IDLE_S)
    assert conninfo_to_dict(url)["dbname"] == "tuneport"
    with psycopg.connect(url) as connection:
        rights = connection.execute(
            "SELECT rolname, rolsuper, rolbypassrls, rolcreaterole, rolcreatedb "
            "FROM pg_roles WHERE rolname = current_user"
        ).fetchone()
        owner = connection.execute(
            "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'tuneport'"
        ).fetchone()
    assert rights == ("portal", False, False, False, True)
    assert owner == ("portal",)


def test_cyrillic_text_is_folded(root: Path) -> None:
    assert value(embedded_postgres.ensure(root, idle_s=IDLE_S), "SELECT 'ПРИВЕТ' ILIKE 'привет'") is True


def test_nobody_else_can_read_passwords_or_reach_the_socket(root: Path) -> None:
    url = embedded_postgres.ensure(root, idle_s=IDLE_S)
    cluster = cluster_of(root)
    for role in ("portal", "postgres"):
        assert stat.S_IMODE(cluster.password_file(role).stat().st_mode) == 0o600
    assert stat.S_IMODE(cluster.sockets.stat().st_mode) == 0o700
    postmaster_pid = (cluster.data / "postmaster.pid").read_text().splitlines()
    assert postmaster_pid[5] == "", "the server must not listen on TCP"
    wrong = conninfo_to_dict(url) | {"password": "guess"}
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(**wrong)


def test_an_unfinished_cluster_of_a_killed_start_is_made_anew() -> None:
    with server_folder("pg") as root:
        _, major = embedded_postgres_version()
        half_made = root / str(major) / "new" / "data"
        half_made.mkdir(parents=True)
        (half_made / "PG_VERSION").write_text(str(major))
        assert value(embedded_postgres.ensure(root, idle_s=IDLE_S), "SELECT 1") == 1
        assert not half_made.exists()


def embedded_postgres_version() -> tuple[Path, int]:
    """The programs that would be used."""
    from portal.embedded_postgres.binaries import find_binaries

    return find_binaries(None)


def test_processes_that_start_at_once_share_one_server() -> None:
    with server_folder("pg") as root, user_process(root) as first, user_process(root) as second:
        embedded_postgres.ensure(root, idle_s=IDLE_S)
        started = {value(process.url, "SELECT pg_postmaster_start_time()") for process in (first, second)}  # type: ignore[attr-defined]
        assert len(started) == 1


def test_the_server_outlives_its_starter_while_another_process_uses_it() -> None:
    with server_folder("pg") as root, user_process(root) as first, user_process(root) as second:
        server = cluster_of(root).postmaster()
        first.kill()
        first.wait()
        time.sleep(IDLE_S + 1)
        assert cluster_of(root).postmaster() == server
        second.kill()  # kill -9, so that no exit handler helps
        assert wait_until(lambda: cluster_of(root).keeper() is None) < IDLE_S + 5
        assert cluster_of(root).postmaster() is None


def test_a_killed_server_comes_back_for_those_who_use_it(root: Path) -> None:
    url = embedded_postgres.ensure(root, idle_s=IDLE_S)
    server = cluster_of(root).postmaster()
    assert server is not None
    os.kill(server, signal.SIGKILL)
    wait_until(lambda: cluster_of(root).postmaster() not in (None, server))
    assert value(embedded_postgres.ensure(root, idle_s=IDLE_S), "SELECT 1") == 1
    assert value(url, "SELECT 1") == 1


def test_a_killed_keeper_takes_the_server_along_and_the_next_start_works(root: Path) -> None:
    embedded_postgres.ensure(root, idle_s=IDLE_S)
    keeper = cluster_of(root).keeper()
    assert keeper is not None
    os.kill(keeper, signal.SIGKILL)
    wait_until(lambda: cluster_of(root).keeper() is None)
    assert value(embedded_postgres.ensure(root, idle_s=IDLE_S), "SELECT 1") == 1
    assert cluster_of(root).keeper() not in (None, keeper)


def test_a_reused_process_id_in_stale_files_does_no_harm(root: Path) -> None:
    embedded_postgres.ensure(root, idle_s=IDLE_S)
    cluster = cluster_of(root)
    leftover = (cluster.data / "postmaster.pid").read_text().split("\n", 1)
    embedded_postgres.release(root)
    assert embedded_postgres.stop(root)
    (cluster.data / "postmaster.pid").write_text(f"{os.getpid()}\n{leftover[1]}")
    assert value(embedded_postgres.ensure(root, idle_s=IDLE_S), "SELECT 1") == 1


def test_stopping_spares_a_server_in_use(root: Path) -> None:
    with user_process(root) as other:
        embedded_postgres.release(root)
        assert not embedded_postgres.stop(root, only_if_unused=True)
        assert value(other.url, "SELECT 1") == 1  # type: ignore[attr-defined]
    assert embedded_postgres.stop(root, only_if_unused=True)
    assert cluster_of(root).postmaster() is None


def test_a_lost_password_of_the_portals_role_is_replaced(root: Path) -> None:
    embedded_postgres.ensure(root, idle_s=IDLE_S)
    cluster_of(root).password_file("portal").unlink()
    assert value(embedded_postgres.ensure(root, idle_s=IDLE_S), "SELECT 1") == 1


def test_a_path_too_long_for_a_socket_works() -> None:
    with server_folder("a folder with a very long name, indeed " * 3 + "/pg") as root:
        url = embedded_postgres.ensure(root, idle_s=IDLE_S)
        assert value(url, "SELECT 1") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes the account")
def test_root_keeps_a_closed_home_closed() -> None:
    with server_folder("home/pg") as root:
        root.parent.mkdir(mode=0o700)
        assert value(embedded_postgres.ensure(root, idle_s=IDLE_S), "SELECT 1") == 1
        assert stat.S_IMODE(root.parent.stat().st_mode) == 0o700
        elsewhere = known_root(root)
        assert elsewhere != root
        embedded_postgres.release(root)
        embedded_postgres.stop(root)
        remove_forgotten_trials()
        assert elsewhere.exists()
        shutil.rmtree(root)
        remove_forgotten_trials()
        assert not elsewhere.exists()


def test_another_database_is_left_alone() -> None:
    environ = {"DATABASE_URL": "postgresql://elsewhere/db"}
    embedded_postgres.provide(environ)
    assert environ == {"DATABASE_URL": "postgresql://elsewhere/db"}

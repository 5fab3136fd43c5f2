"""Make a cluster, its role and its database, and tell whether they can be used."""

import os
import secrets
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from portal.embedded_postgres.binaries import Account
from portal.embedded_postgres.cluster import Cluster, EmbeddedPostgresError

if TYPE_CHECKING:
    import psycopg

ROLE = "portal"
DATABASE = "tuneport"
SUPERUSER = "postgres"


def make_cluster(cluster: Cluster, binaries: Path, account: Account) -> None:
    """Run initdb in a folder aside and rename it, so that a killed start leaves nothing half made."""
    for role in (SUPERUSER, ROLE):
        write_private(cluster.password_file(role), secrets.token_urlsafe(32))
    work = cluster.home / "new"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(mode=0o700)
    password = work / "password"
    write_private(password, cluster.password_file(SUPERUSER).read_text())
    if account.switch:
        for path in (work, password):
            os.chown(path, account.uid, account.gid)
    command = [str(binaries / "initdb"), "-D", str(work / "data"), "-U", SUPERUSER, f"--pwfile={password}"]
    command += ["--auth=scram-sha-256", "--encoding=UTF8", *locale_options(int(cluster.home.name))]
    made = subprocess.run(
        command,
        cwd="/",
        env=plain_environment(),
        capture_output=True,
        text=True,
        check=False,
        **account.popen_arguments(),
    )
    if made.returncode:
        raise EmbeddedPostgresError(f"The database could not be made: {made.stderr.strip()}")
    (work / "data").rename(cluster.data)
    shutil.rmtree(work)


def locale_options(major: int) -> list[str]:
    """Return initdb's options for text that is Unicode everywhere and sorts the same on every machine."""
    if major >= 17:
        return ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    return ["--locale=C.UTF-8"]


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, from its first moment on."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)


def prepare_database(cluster: Cluster) -> bool:
    """Make role and database as far as they are missing; return False while the server is not up yet."""
    import psycopg

    if cluster.keeper() is None:
        return False
    if not cluster.password_file(ROLE).exists():
        write_private(cluster.password_file(ROLE), secrets.token_urlsafe(32))
    # a slow or failing statement goes to the log, and one of these holds a password
    silent = "-c log_min_duration_statement=-1 -c log_min_error_statement=panic"
    url = cluster.url(SUPERUSER, "postgres")
    try:
        with psycopg.connect(url, connect_timeout=5, autocommit=True, options=silent) as connection:
            complete_database(connection, cluster.password_file(ROLE).read_text().strip())
    except psycopg.OperationalError:
        return False
    return accepts_connections(cluster)


def complete_database(connection: "psycopg.Connection", password: str) -> None:
    """Make the portal's role and its database, unless they are there.

    The role owns the database but is no superuser and cannot bypass row-level security, which is the
    second wall between teams. It may create databases, for tests.
    """
    from psycopg import sql

    role, database = sql.Identifier(ROLE), sql.Identifier(DATABASE)
    verb = "ALTER" if exists(connection, "SELECT 1 FROM pg_roles WHERE rolname = %s", ROLE) else "CREATE"
    rights = "LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEROLE NOREPLICATION CREATEDB"
    connection.execute(sql.SQL(f"{verb} ROLE {{}} {rights} PASSWORD {{}}").format(role, sql.Literal(password)))
    if not exists(connection, "SELECT 1 FROM pg_database WHERE datname = %s", DATABASE):
        connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(database, role))
    connection.execute(sql.SQL("REVOKE CONNECT ON DATABASE {} FROM PUBLIC").format(database))


def accepts_connections(cluster: Cluster) -> bool:
    """Tell whether the portal's role can use its database."""
    import psycopg  # here, because the keeper has no use for it

    if cluster.keeper() is None or not cluster.password_file(ROLE).exists():
        return False
    try:
        psycopg.connect(cluster.url(ROLE, DATABASE), connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True


def exists(connection: "psycopg.Connection", query: str, name: str) -> bool:
    """Tell whether a query for one name finds a row."""
    return connection.execute(query.encode(), [name]).fetchone() is not None


def plain_environment() -> dict[str, str]:
    """Return an environment without secrets and without PG variables that would change the server's mind."""
    kept = {name: os.environ[name] for name in ("PATH", "TUNEPORT_PG_USER") if name in os.environ}
    return {"PATH": os.defpath, "LC_ALL": "C.UTF-8", "TZ": "UTC", **kept}

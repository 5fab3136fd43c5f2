"""Counted requests on their way to the ledger: written down before an answer goes out, so that no kill loses one.

Each process that answers has a file of its own below `run/ledger`, to which it adds a line for each request; what was
written survives the process, though not a loss of power. How much of the file is in the ledger is a row of the
database (`LedgerJournal`), changed in the transaction that writes the records: every request is counted once. The
process holds a lock on its file; whoever gets the lock finds a process that died, and counts what it left.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from django.conf import settings

logger = logging.getLogger(__name__)

_SUFFIX: Final = ".jsonl"
# A file that is longer, and of which everything is in the ledger, is left for a new one.
_LONG_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class Place:
    """Where in which file an entry ends."""

    name: str
    end: int


class Journal:
    """The file of one process. Not thread safe: its ledger takes care that one thread writes at a time."""

    def __init__(self) -> None:
        self._descriptor: int | None = None
        self._path: Path | None = None
        self._length = 0

    def add(self, entry: Mapping[str, Any]) -> Place | None:
        """Write an entry down; None if the disk does not take it, which must not cost anybody their answer."""
        line = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
        try:
            if self._descriptor is None:
                self._open()
            assert self._descriptor is not None
            assert self._path is not None
            if os.write(self._descriptor, line) < len(line):
                os.ftruncate(self._descriptor, self._length)  # half a line would spoil the next one
                raise OSError("the disk is full")
            self._length += len(line)
            return Place(self._path.name, self._length)
        except OSError as error:
            logger.error("a request is counted without being written down first: %s", type(error).__name__)
            return None

    def renew(self) -> None:
        """Begin a new file if this one is long. Call it when all of its entries are in the ledger."""
        if self._length > _LONG_BYTES:
            self.end()

    def end(self) -> None:
        """Remove the file: all of its entries are in the ledger."""
        if self._descriptor is not None and self._path is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._descriptor)

        self._descriptor, self._path, self._length = None, None, 0

    def leave(self) -> None:
        """Leave the file to the process that made it: a forked child has none, and must not keep the lock alive."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor, self._path, self._length = None, None, 0

    def _open(self) -> None:
        path = folder() / f"{uuid.uuid4().hex}{_SUFFIX}"
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".new")
        descriptor = os.open(aside, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        aside.rename(path)  # not before it is locked: a file without a lock is taken for one of a dead process
        self._descriptor, self._path, self._length = descriptor, path, 0


def folder() -> Path:
    """Return where the files of all processes lie."""
    return Path(settings.DATA_DIR) / "run" / "ledger"


def paths() -> list[Path]:
    """Return the files of all processes."""
    return sorted(folder().glob(f"*{_SUFFIX}"))


@dataclass(frozen=True)
class Left:
    """The file of a process that has died, locked until it is dropped."""

    path: Path
    descriptor: int

    def entries(self, *, begin: int) -> Iterator[tuple[dict[str, Any], Place]]:
        """Yield what was written down behind `begin`; a line that was cut short was never answered.

        What a loss of power left unreadable must not hide what is behind it.
        """
        with self.path.open("rb") as file:
            file.seek(begin)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                begin += len(line)
                try:
                    entry = json.loads(line)
                except ValueError:
                    logger.error("a line of the journal %s cannot be read", self.path.name)
                    continue
                yield entry, Place(self.path.name, begin)

    def drop(self, *, is_done: bool) -> None:
        """Let go of the file, and remove it if all of it is in the ledger."""
        if is_done:
            self.path.unlink(missing_ok=True)
        os.close(self.descriptor)


def left() -> Iterator[Left]:
    """Yield the files of processes that have died, each locked; the caller drops it."""
    for path in paths():
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)  # its process lives
            continue
        if not path.exists():
            os.close(descriptor)  # its process has just ended in order
            continue
        yield Left(path, descriptor)

"""Reads the events that child processes append to a file.

A file and not a pipe: it outlives a killed supervisor and a database that is away, and nobody has to wait for a reader.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from experiments.run_events import Event, parse_line

# No honest event comes near this; a longer line is passed over in pieces.
_CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True)
class Batch:
    """Events, and from and to which byte of the file they were read."""

    events: tuple[Event, ...]
    start: int
    end: int

    @property
    def is_empty(self) -> bool:
        """Whether nothing was read."""
        return self.start == self.end


class EventFile:
    """An append-only file of JSON lines, read up to `offset`."""

    def __init__(self, path: Path, offset: int) -> None:
        self.path = path
        self.offset = offset

    def read(self) -> Batch:
        """Return the next whole lines without going past them; `advance` does that, once they are safe."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                chunk = file.read(_CHUNK_BYTES)
        except FileNotFoundError:
            chunk = b""
        whole = chunk.rfind(b"\n") + 1
        if not whole and len(chunk) == _CHUNK_BYTES:
            whole = len(chunk)
        events = (parse_line(line) for line in chunk[:whole].splitlines())
        return Batch(tuple(event for event in events if event is not None), self.offset, self.offset + whole)

    def advance(self, batch: Batch) -> None:
        """Go past a batch."""
        self.offset = batch.end

    def seal(self) -> None:
        """End a line that its writer was killed in, so that the next writer begins a new one."""
        try:
            with self.path.open("r+b") as file:
                if file.seek(0, 2) and (file.seek(-1, 2), file.read(1))[1] != b"\n":
                    file.write(b"\n")
        except FileNotFoundError:
            return

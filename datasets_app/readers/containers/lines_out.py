"""Rows of a container written as JSON lines, each on the line that has the number of its row."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from datasets_app.readers.faults import FileRefused
from datasets_app.readers.limits import MIB, Limits

_write_json: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_write_ascii: Final = json.JSONEncoder(separators=(",", ":")).encode


# Tables shrink to a tenth; text of one repeated line to a hundredth. What shrinks more, and is large, is a bomb.
MAX_RATIO: Final = 200
HARMLESS_BYTES: Final = 32 * MIB


def is_bomb(size_bytes: int, packed_bytes: int) -> bool:
    """Tell whether something unpacks to far more than any table would."""
    return size_bytes > HARMLESS_BYTES and size_bytes > MAX_RATIO * packed_bytes


@dataclass(frozen=True)
class Unpacked:
    """What was taken out of a container: `part` of `parts`; `is_text` if it is text in an encoding of its own."""

    container: str
    part: str = ""
    parts: list[str] = field(default_factory=list)
    is_text: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready form."""
        return asdict(self)

    def with_form_of(self, inner: Unpacked) -> Unpacked:
        """Return the same part, read like the container in which it lay in turn."""
        return replace(self, is_text=inner.is_text)


class LinesOut:
    """Writes rows to a file; rows that are left out become blank lines, so line numbers are row numbers."""

    def __init__(self, path: Path, limits: Limits, *, packed_bytes: int) -> None:
        self._path = path
        self._limits = limits
        self._packed_bytes = packed_bytes
        self._line = self._bytes = self.rows = 0

    def __enter__(self) -> LinesOut:
        self._file = self._path.open("wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, number: int, values: Mapping[str, object]) -> None:
        """Write a row as line `number`. Raises: FileRefused for too many rows or bytes."""
        self.add_json(number, _encoded(values))

    def add_json(self, number: int, line: bytes) -> None:
        """Write a row that is JSON in one line already."""
        self.rows += 1
        if self.rows > self._limits.max_rows:
            raise FileRefused("too_many_rows", limit=self._limits.max_rows)
        text = b"\n" * (number - self._line - 1) + line + b"\n"
        self._line = number
        self._bytes += len(text)
        if is_bomb(self._bytes, self._packed_bytes):
            raise FileRefused("archive_bomb")
        if self._bytes > self._limits.max_unpacked_bytes:
            raise FileRefused("unpacked_too_large", limit=self._limits.max_unpacked_bytes // MIB)
        self._file.write(text)


def _encoded(values: Mapping[str, object]) -> bytes:
    try:
        return _write_json(values).encode()
    except UnicodeEncodeError:  # a lone surrogate: written as an escape, which the reader of the lines reports
        return _write_ascii(values).encode()

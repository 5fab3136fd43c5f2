"""One door to every kind of table: open a file, know its columns, stream its records."""

import itertools
from collections.abc import Iterator
from pathlib import Path

from datasets_app.readers.delimited import DelimitedReader
from datasets_app.readers.detection import Detection, Kind, detect
from datasets_app.readers.dialect import DELIMITERS
from datasets_app.readers.faults import FileRefused, Record, RowFault
from datasets_app.readers.jsonlines import JsonLinesReader
from datasets_app.readers.limits import DEFAULT_LIMITS, Limits
from datasets_app.readers.lines import LineReader, is_utf16


class Table:
    """A file that can be read as a table, as often as wanted; `columns` are known, rows are not held.

    Raises: FileRefused from the constructor if the header cannot be used or no row follows it.
    """

    def __init__(
        self, path: Path, *, kind: Kind, encoding: str, delimiter: str | None, detection: Detection, limits: Limits
    ) -> None:
        self.path = path
        self.kind = kind
        self.encoding = encoding
        self.delimiter = delimiter
        self.detection = detection
        self.limits = limits
        with self._lines() as lines:
            self._reading = lines
            reader = self._reader(lines)
            self.columns: tuple[str, ...] = reader.columns
            if next(reader.records(), None) is None:
                raise FileRefused("no_rows")

    def records(self) -> Iterator[Record | RowFault]:
        """Yield each row, or the fault that stands in its place, in the order of the file.

        Raises: FileRefused when the file turns out to have too many rows.
        """
        limit = self.limits.max_rows
        with self._lines() as lines:
            self._reading = lines
            rows = self._reader(lines).records()
            yield from itertools.islice(rows, limit)
            if next(rows, None) is not None:
                raise FileRefused("too_many_rows", limit=limit)

    @property
    def position_bytes(self) -> int:
        """How far in the file the latest pass of `records` is; for progress bars."""
        return self._reading.position_bytes

    def sample(self, count: int) -> list[Record]:
        """Return the first `count` good records."""
        good = (row for row in self.records() if isinstance(row, Record))
        return list(itertools.islice(good, count))

    def _lines(self) -> LineReader:
        return LineReader(
            self.path,
            encoding=self.encoding,
            line_end=self.detection.line_end,
            max_line_bytes=self.limits.max_row_bytes,
        )

    def _reader(self, lines: LineReader) -> DelimitedReader | JsonLinesReader:
        # LineReader hands UTF-16 on as UTF-8.
        encoding = "utf-8" if is_utf16(self.encoding) else self.encoding
        if self.delimiter is None:
            return JsonLinesReader(lines, encoding=encoding, limits=self.limits)
        return DelimitedReader(lines, delimiter=self.delimiter, encoding=encoding, limits=self.limits)


def open_table(
    path: Path,
    *,
    limits: Limits = DEFAULT_LIMITS,
    encoding: str | None = None,
    delimiter: str | None = None,
    detection: Detection | None = None,
) -> Table:
    """Open a file as a table; what is not given is detected, from its content and never from its name.

    Pass the `detection` of an earlier look to save reading the file for it again.
    Raises: FileRefused when the file is no table, or when a person must choose its encoding first.
    """
    found = detection if detection and encoding is None else detect(path, limits=limits, encoding=encoding)
    chosen = encoding or found.encoding
    if chosen is None:
        raise _undecided(found)
    if delimiter is not None and delimiter not in DELIMITERS:
        raise FileRefused("delimiter_unsupported")
    kind: Kind = found.kind
    if kind != "jsonl" and delimiter is not None:
        kind = "tsv" if delimiter == "\t" else "csv"
    cut_at = None if kind == "jsonl" else delimiter or found.delimiter
    return Table(path, kind=kind, encoding=chosen, delimiter=cut_at, detection=found, limits=limits)


def _undecided(found: Detection) -> FileRefused:
    if found.first_bad_line is None:
        return FileRefused("utf16")
    names = ", ".join(candidate.encoding for candidate in found.candidates)
    return FileRefused("encoding_unknown", bad_lines=found.bad_lines, first=found.first_bad_line, candidates=names)

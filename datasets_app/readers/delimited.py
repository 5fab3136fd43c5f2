"""Rows of delimited text (CSV, TSV, semicolons) with true line numbers; a broken row does not end the scan.

A quoted cell may contain line ends, so a quote that is never closed swallows the rows behind it. After such an
accident reading begins again one line further down, and only a row whose quotes are beyond doubt is believed.
"""

import csv
import re
from collections.abc import Iterator
from typing import Final

from datasets_app.readers.dialect import SEPARATOR_LINE, CellPattern
from datasets_app.readers.faults import FileRefused, Record, RowFault
from datasets_app.readers.header import checked_columns
from datasets_app.readers.limits import Limits
from datasets_app.readers.lines import LineReader, LineTooLong
from datasets_app.readers.own_csv import OWN_COLUMN, restored

# What may be read a second time after broken quotes: bounds the work that a hostile file can cause.
REREAD_BYTES: Final = 32 * 1024 * 1024
# A line costs time however short it is; it counts as this many bytes more.
BYTES_PER_LINE: Final = 64
# Lines without one believable row after which the rest of the file is given up.
HOPELESS_LINES: Final = 100_000


class RowTooLong(Exception):
    """The lines of one row together exceed the limit."""


BLANK_LINES: Final = frozenset({b"\n", b"\r\n"})
# What may happen instead of the next row; reading can go on behind all of them.
ACCIDENTS: Final = (csv.Error, RowTooLong, LineTooLong)


class DelimitedReader:
    """Read the records of one delimited file, once, from its first line to its last.

    Raises: FileRefused from the constructor if the header cannot be used.
    """

    def __init__(self, lines: LineReader, *, delimiter: str, encoding: str, limits: Limits) -> None:
        _allow_cells_of(limits.max_row_bytes)
        self._lines = lines
        self._encoding = encoding
        self._limits = limits
        self._pattern = CellPattern(delimiter)
        self._reread_bytes = REREAD_BYTES
        self._row_lines: list[bytes] = []
        self._row_bytes = 0
        # The line on which the row begins.
        self._start = 0
        # Suspect: the row is damaged, or so long that a cell may exceed the limit.
        self._is_suspect = self._is_damaged = False
        self._reader: Iterator[list[str]] = self._new_reader()
        self.columns = self._read_header()

    def records(self) -> Iterator[Record | RowFault]:
        """Yield every row below the header, or the fault that stands in its place."""
        records = self._records()
        return map(restored, records) if OWN_COLUMN in self.columns else records

    def _records(self) -> Iterator[Record | RowFault]:
        columns, width = self.columns, len(self.columns)
        row_lines = self._row_lines
        while True:
            row_lines.clear()
            try:
                cells = next(self._reader)
            except StopIteration:
                return
            except ACCIDENTS as error:
                yield from self._after_accident(error)
                self._is_suspect = self._is_damaged = False
                continue
            if len(cells) == width and not self._is_suspect:
                yield Record(self._start, dict(zip(columns, cells, strict=False)))
            else:
                yield self._examined(cells)
                self._is_suspect = self._is_damaged = False

    def _next_cells(self) -> list[str]:
        """Return the cells of the next row outside the fast loop. Raises: StopIteration and ACCIDENTS."""
        self._row_lines.clear()
        self._is_suspect = self._is_damaged = False
        return next(self._reader)

    def _new_reader(self) -> Iterator[list[str]]:
        return csv.reader(
            self._feed(), delimiter=self._pattern.delimiter, strict=True, skipinitialspace=self._pattern.skips_space
        )

    def _feed(self) -> Iterator[str]:
        """Yield the text of line after line, keeping the raw lines of the row that is being read."""
        lines, row_lines, encoding = self._lines, self._row_lines, self._encoding
        longest_harmless = self._limits.max_cell_bytes
        for raw in lines:
            if not row_lines:
                if len(raw) <= 2 and raw in BLANK_LINES:
                    continue
                self._start = lines.number
            row_lines.append(raw)
            if len(row_lines) > 1 or len(raw) > longest_harmless:
                self._count_bytes(raw)
            if b"\0" in raw:
                self._is_suspect = self._is_damaged = True
            try:
                text = raw.decode(encoding)
            except UnicodeDecodeError:
                # Quotes and delimiters are ASCII, so the row can be read to its end and reported as a whole.
                text = raw.decode(encoding, "surrogateescape")
                self._is_suspect = self._is_damaged = True
            yield text

    def _count_bytes(self, another: bytes) -> None:
        """Add one more line to the size of the row; the size of most rows, of one short line, is never taken."""
        if len(self._row_lines) <= 2:
            self._row_bytes = len(self._row_lines[0]) if len(self._row_lines) == 2 else 0
        self._row_bytes += len(another)
        self._is_suspect = self._is_suspect or self._row_bytes > self._limits.max_cell_bytes
        if self._row_bytes > self._limits.max_row_bytes or len(self._row_lines) > self._limits.max_row_lines:
            raise RowTooLong

    def _read_header(self) -> tuple[str, ...]:
        cells: list[str] = []
        try:
            self._prepare(self._lines.read())
            while not cells:
                cells = self._next_cells()
        except StopIteration:
            raise FileRefused("empty_file") from None
        except ACCIDENTS:
            raise FileRefused("header_unreadable", line=self._lines.number) from None
        if self._is_damaged:
            raise FileRefused("header_unreadable", line=self._lines.number)
        return checked_columns([cell.strip() for cell in cells], self._limits)

    def _prepare(self, first: bytes) -> None:
        """Take from the first line how the file is to be read; the line itself is read again unless it is Excel's."""
        if first and not SEPARATOR_LINE.match(first.decode("latin-1")):
            self._lines.give_back([first])
        self._pattern.learn(first)
        self._reader = self._new_reader()

    def _examined(self, cells: list[str]) -> Record | RowFault:
        """Return the fault of a row that is complete but not in order, or its record if it is after all."""
        start = self._start
        if self._is_damaged:
            return self._damage(start, cells)
        if len(cells) != len(self.columns):
            return RowFault(start, None, "ragged", {"found": len(cells), "expected": len(self.columns)})
        limit = self._limits.max_cell_bytes
        for column, cell in zip(self.columns, cells, strict=True):
            if len(cell) * 4 > limit and len(cell.encode(self._encoding)) > limit:
                return RowFault(start, column, "cell_too_long", {"limit": limit})
        return Record(start, dict(zip(self.columns, cells, strict=True)))

    def _damage(self, start: int, cells: list[str]) -> RowFault:
        """Name the first byte that is no text, by its line, its column and its place in the line."""
        for offset, raw in enumerate(self._row_lines):
            line = start + offset
            if b"\0" in raw:
                return RowFault(line, self._column_with(cells, r"\0"), "nul")
            try:
                raw.decode(self._encoding)
            except UnicodeDecodeError as error:
                params = {"byte": raw[error.start], "position": error.start + 1, "encoding": self._encoding}
                return RowFault(line, self._column_with(cells, "[\udc80-\udcff]"), "bad_byte", params)
        raise AssertionError("a damaged row has a damaged line")

    def _column_with(self, cells: list[str], pattern: str) -> str | None:
        for column, cell in zip(self.columns, cells):  # noqa: B905 - the row may be ragged as well
            if re.search(pattern, cell):
                return column
        return None

    def _after_accident(self, error: Exception) -> Iterator[Record | RowFault]:
        """Report the row that could not be read, and find the next one that can."""
        start = error.number if isinstance(error, LineTooLong) and not self._row_lines else self._start
        if str(error).startswith("new-line character"):
            # A lone carriage return outside quotes: the row ends where its line ends, nothing is swallowed.
            yield RowFault(start, None, "stray_return")
            return
        code = "bad_quotes" if isinstance(error, csv.Error) else "row_too_long"
        column = self._column_at(self._pattern.whole_cells(self._beginning_of_row(error)))
        record, last = self._next_believable(start, error)
        if last - start >= HOPELESS_LINES:
            yield RowFault(start, column, "unreadable_rest", {"lines": last - start})
            return
        limits = {"limit": self._limits.max_row_bytes, "line_limit": self._limits.max_row_lines}
        params = {"first": start, "last": last} | limits
        yield RowFault(start, column, code, params)
        if record is not None:
            yield record

    def _next_believable(self, start: int, error: Exception) -> tuple[Record | None, int]:
        """Return the next row that is well formed beyond doubt, and the last line that was left out before it."""
        self._begin_again(error)
        while True:
            if self._lines.number - start >= HOPELESS_LINES:
                self._reader = iter(())
                return None, self._lines.number
            try:
                cells = self._next_cells()
            except StopIteration:
                return None, self._lines.number
            except ACCIDENTS as another:
                self._begin_again(another)
                continue
            if self._is_believable(cells):
                return Record(self._start, dict(zip(self.columns, cells, strict=True))), self._start - 1
            if len(self._row_lines) > 1:
                self._begin_again(None)

    def _is_believable(self, cells: list[str]) -> bool:
        if len(cells) != len(self.columns) or self._is_suspect:
            return False
        return self._pattern.is_well_formed(b"".join(self._row_lines))

    def _begin_again(self, error: Exception | None) -> None:
        """Read on from the line below the first of the row that failed, while the allowance lasts."""
        swallowed = self._row_lines[1:]
        size_bytes = sum(map(len, swallowed)) + BYTES_PER_LINE * len(swallowed)
        # Behind an endless line the lines before it cannot be put back in their place.
        if not isinstance(error, LineTooLong) and size_bytes <= self._reread_bytes:
            self._reread_bytes -= size_bytes
            self._lines.give_back(swallowed)
        self._reader = self._new_reader()

    def _beginning_of_row(self, error: Exception) -> bytes:
        unfinished = error.start if isinstance(error, LineTooLong) else b""
        return b"".join(self._row_lines) + unfinished

    def _column_at(self, index: int) -> str | None:
        return self.columns[index] if index < len(self.columns) else None


def _allow_cells_of(size: int) -> None:
    """Let csv accept cells of this size; its limit is one for the process and must never be lowered here."""
    if csv.field_size_limit() < size:
        csv.field_size_limit(size)

"""Find out how the cells of delimited text are divided."""

import csv
import io
import re
from collections import Counter
from typing import Final

DELIMITERS: Final = (",", ";", "\t", "|")
SAMPLE_ROWS: Final = 50
# Excel writes "sep=;" as the first line of a file for itself.
SEPARATOR_LINE: Final = re.compile(r'\s*"?sep=([,;\t|])"?\s*\Z', re.IGNORECASE)


def find_delimiter(text: str) -> str:
    """Return the delimiter that cuts the beginning of a table into the same number of cells in most rows.

    A table of one column has none; a comma is returned.
    """
    declared = SEPARATOR_LINE.match(text.partition("\n")[0])
    if declared:
        return declared[1]
    return max(DELIMITERS, key=lambda delimiter: _evenness(text, delimiter))


def _evenness(text: str, delimiter: str) -> tuple[float, int]:
    """Return how regular the rows are when cut at `delimiter`: (share of rows like the header, cells a row)."""
    widths = _row_widths(text, delimiter)
    if not widths or widths[0] < 2:
        return 0.0, 0
    return Counter(widths)[widths[0]] / len(widths), widths[0]


def _row_widths(text: str, delimiter: str) -> list[int]:
    widths: list[int] = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        for cells in reader:
            if cells:
                widths.append(len(cells))
            if len(widths) > SAMPLE_ROWS:
                break
    except csv.Error:
        pass
    # The sample may end in the middle of a row.
    return widths[:-1] if len(widths) > 1 else widths


class CellPattern:
    """Well-formed cells of one delimiter, as RFC 4180 writes them, recognised in raw bytes.

    Every encoding that reaches it agrees with ASCII in quotes, delimiters and line ends.
    """

    def __init__(self, delimiter: str) -> None:
        self.delimiter = delimiter
        self.skips_space = False
        self._always_quoted = False
        self._compile()

    def learn(self, header: bytes) -> None:
        """Take the file's habits from its header.

        Where the first name is quoted every row begins with a quote; where a name is quoted behind a blank, as in
        `"prompt", "response"`, blanks before a quote are no part of the cell.
        """
        self._always_quoted = header.lstrip().startswith(b'"')
        self.skips_space = re.search(re.escape(self.delimiter.encode()) + rb' +"', header) is not None
        self._compile()

    def _compile(self) -> None:
        mark = re.escape(self.delimiter.encode())
        # Possessive repetition: a cell of megabytes is scanned once, without going back.
        quoted = rb'"[^"]*+(?:""[^"]*+)*+"'
        plain = rb'[^"%s\r\n]*+' % mark
        cell = rb"(?:%s%s|%s)" % (rb" *+" if self.skips_space else b"", quoted, plain)
        self._cell_and_delimiter = re.compile(cell + mark)
        self._row = re.compile(rb"%s(?:%s%s)*+(?:\r?\n)?" % (cell, mark, cell))

    def is_well_formed(self, row: bytes) -> bool:
        """Tell whether the quotes of a row leave no doubt about where its cells begin and end."""
        return (not self._always_quoted or row.startswith(b'"')) and self._row.fullmatch(row) is not None

    def whole_cells(self, row: bytes) -> int:
        """Return how many cells at the beginning of a broken row are well formed: the index of the next one."""
        count = position = 0
        while cell := self._cell_and_delimiter.match(row, position):
            count, position = count + 1, cell.end()
        return count

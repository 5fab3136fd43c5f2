"""The CSV files that we write ourselves: harmless in a spreadsheet, and the same rows again when they come back.

A cell that a spreadsheet would take for a formula gets an apostrophe in front, as does one that looks as if it had
got one. A file with the column `tuneport_row` is one of ours, so its reader takes one apostrophe away again; files of
others are read as they are.
"""

import re
from typing import Final

from datasets_app.readers.faults import Record, RowFault

OWN_COLUMN: Final = "tuneport_row"
_DANGEROUS: Final = re.compile(r"'*[=+\-@\t\r]")
_DEFUSED: Final = re.compile(r"'+[=+\-@\t\r]")


def harmless_cell(text: str) -> str:
    """Return a cell that no spreadsheet runs; `restored_cell` gives the text back."""
    return f"'{text}" if _DANGEROUS.match(text) else text


def restored_cell(cell: str) -> str:
    """Return what `harmless_cell` was given."""
    return cell[1:] if _DEFUSED.match(cell) else cell


def restored(record: Record | RowFault) -> Record | RowFault:
    """Return a record of a file of ours with the texts as they were; a fault stays."""
    if isinstance(record, RowFault):
        return record
    values: dict[str, object] = {
        column: restored_cell(cell) if isinstance(cell, str) else cell for column, cell in record.values.items()
    }
    return Record(record.line, values)

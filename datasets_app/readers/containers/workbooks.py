"""Excel workbooks (.xlsx): one sheet becomes JSON lines, line number = row number of the sheet."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import python_calamine

from datasets_app.readers.containers.archives import MAX_NAME, Entry, chosen_of
from datasets_app.readers.containers.cells import as_cell
from datasets_app.readers.containers.lines_out import LinesOut, Unpacked, is_bomb
from datasets_app.readers.faults import FileRefused
from datasets_app.readers.header import checked_columns
from datasets_app.readers.limits import MIB, Limits

Row = tuple[int, list[object]]

# What the XML of a workbook may become in memory before it is a table.
MAX_XML_BYTES: Final = 1024 * MIB
WORKBOOK: Final = "xl/workbook.xml"


def is_workbook(entries: Sequence[Entry]) -> bool:
    """Tell whether the entries of a ZIP archive make an Excel workbook."""
    return any(entry.filename == WORKBOOK for entry in entries)


def refuse_bomb(entries: Sequence[Entry], limits: Limits) -> None:
    """Raise FileRefused if the XML inside is far larger than its archive, or too large at all."""
    if sum(entry.file_size for entry in entries) > MAX_XML_BYTES:
        raise FileRefused("unpacked_too_large", limit=MAX_XML_BYTES // MIB)
    if any(is_bomb(entry.file_size, entry.compress_size) for entry in entries):
        raise FileRefused("archive_bomb")


def is_encrypted(path: Path) -> bool:
    """Tell whether an OLE file holds a workbook behind a password; its directory names the encrypted package."""
    with path.open("rb") as file:
        header = file.read(512)
        if len(header) < 52:
            return False
        sector_shift, first = struct.unpack_from("<H", header, 30)[0], struct.unpack_from("<I", header, 48)[0]
        if sector_shift not in (9, 12) or (first + 1) << sector_shift > path.stat().st_size:
            return False
        file.seek((first + 1) << sector_shift)
        return "EncryptedPackage".encode("utf-16-le") in file.read(1 << 16)


def unpack(path: Path, out: Path, part: str, limits: Limits) -> Unpacked:
    """Write one sheet to `out`. Raises: FileRefused."""
    try:
        with path.open("rb") as file, python_calamine.CalamineWorkbook.from_filelike(file) as workbook:
            return _unpack(workbook, out, part, limits, path.stat().st_size)
    except python_calamine.PasswordError:
        raise FileRefused("workbook_encrypted") from None
    except (python_calamine.CalamineError, python_calamine.XmlError, python_calamine.ZipError):
        raise FileRefused("container_damaged") from None


def _unpack(
    workbook: python_calamine.CalamineWorkbook, out: Path, part: str, limits: Limits, packed_bytes: int
) -> Unpacked:
    kinds = {sheet.name: sheet.typ for sheet in workbook.sheets_metadata}
    names = [name for name in workbook.sheet_names if kinds[name] == python_calamine.SheetTypeEnum.WorkSheet]
    if not names:
        raise FileRefused("workbook_empty")
    if any(len(name) > MAX_NAME for name in names):  # no program writes more than 31 characters
        raise FileRefused("container_damaged")
    wanted = chosen_of(names, part)
    # A person's own choice is taken even if it is empty; otherwise the first sheet with rows serves.
    tried = [wanted] if part else [wanted, *(name for name in names if name != wanted)]
    for name in tried:
        if _write(workbook.get_sheet_by_name(name), out, limits, packed_bytes):
            return Unpacked("xlsx", name, names)
    raise FileRefused("sheet_empty", sheet=tried[0]) if part else FileRefused("workbook_empty")


def _write(sheet: python_calamine.CalamineSheet, out: Path, limits: Limits, packed_bytes: int) -> int:
    """Write the rows below the header; return how many there are."""
    rows = _filled_rows(sheet)
    _number, header = next(rows, (0, []))
    columns = checked_columns(_names(header), limits)
    with LinesOut(out, limits, packed_bytes=packed_bytes) as lines:
        for number, cells in rows:
            if any(cell != "" for cell in cells[len(columns) :]):
                raise FileRefused("sheet_beyond_header", row=number)
            values = [*map(as_cell, cells[: len(columns)]), *[""] * (len(columns) - len(cells))]
            lines.add(number, dict(zip(columns, values, strict=True)))
        return lines.rows


def _filled_rows(sheet: python_calamine.CalamineSheet) -> Iterator[Row]:
    """Yield the rows that are not empty with their numbers, the first row of the sheet being 1."""
    for number, cells in enumerate(sheet.iter_rows(), 1):
        if any(cell != "" for cell in cells):
            yield number, list(cells)


def _names(header: Sequence[object]) -> list[str]:
    names = [str(as_cell(cell)).strip() for cell in header]
    while names and not names[-1]:
        names.pop()
    return names

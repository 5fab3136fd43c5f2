"""Workbooks, Parquet files and archives as people upload them."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from collections.abc import Mapping, Sequence

import openpyxl
import pyarrow
import pyarrow.parquet

HEADER = ("prompt", "response")


def xlsx_bytes(rows: Sequence[Sequence[object]], header: Sequence[object] = HEADER, **sheets: object) -> bytes:
    """Return a workbook with the rows in its sheet “Data”; `sheets` are further ones by name, each a list of rows."""
    book = openpyxl.Workbook()
    book.active.title = "Data"
    for name, lines in {"Data": [header, *rows], **sheets}.items():
        sheet = book[name] if name in book.sheetnames else book.create_sheet(name)
        for line in lines:
            sheet.append(list(line))
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


def parquet_bytes(rows: Sequence[Sequence[object]], header: Sequence[str] = HEADER, **options: object) -> bytes:
    """Return a Parquet file."""
    columns = {name: [row[index] for row in rows] for index, name in enumerate(header)}
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), out, **options)
    return out.getvalue()


def zip_of(members: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return a ZIP archive of these members."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def gzip_bytes(content: bytes) -> bytes:
    """Return the content packed."""
    return gzip.compress(content, mtime=0)


def array_bytes(objects: Sequence[object], indent: int | None = 2) -> bytes:
    """Return a JSON document that is one array."""
    return json.dumps(objects, ensure_ascii=False, indent=indent).encode()

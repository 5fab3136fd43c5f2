"""Recognise files that are no text table, by their content and never by their name."""

import re
from typing import NamedTuple

from datasets_app.readers.sentences import gettext_noop

EXPORT_AS_CSV = gettext_noop("Export the table as CSV in UTF-8 and upload that.")
UNPACK_FIRST = gettext_noop("Unpack it and upload the table inside.")
ONE_OBJECT_A_LINE = gettext_noop("Write one JSON object a line (JSON Lines) and upload that.")


class Stranger(NamedTuple):
    """What a file really is and what its owner can do about it."""

    what: str
    advice: str


SIGNATURES: tuple[tuple[bytes, Stranger], ...] = (
    (b"PAR1\x15", Stranger(gettext_noop("a Parquet file"), EXPORT_AS_CSV)),
    (b"ARROW1\x00", Stranger(gettext_noop("an Arrow file"), EXPORT_AS_CSV)),
    (b"Obj\x01", Stranger(gettext_noop("an Avro file"), EXPORT_AS_CSV)),
    (b"SQLite format 3\x00", Stranger(gettext_noop("an SQLite database"), EXPORT_AS_CSV)),
    (b"\xd0\xcf\x11\xe0\xa1\xb1", Stranger(gettext_noop("an old Office document (.xls, .doc)"), EXPORT_AS_CSV)),
    (b"\x89HDF\r\n\x1a\n", Stranger(gettext_noop("an HDF5 file"), EXPORT_AS_CSV)),
    (b"\x93NUMPY", Stranger(gettext_noop("a NumPy array"), EXPORT_AS_CSV)),
    (b"\x1f\x8b", Stranger(gettext_noop("a gzip archive"), UNPACK_FIRST)),
    (b"\xfd7zXZ\x00", Stranger(gettext_noop("an xz archive"), UNPACK_FIRST)),
    (b"\x28\xb5\x2f\xfd", Stranger(gettext_noop("a Zstandard archive"), UNPACK_FIRST)),
    (b"7z\xbc\xaf\x27\x1c", Stranger(gettext_noop("a 7-Zip archive"), UNPACK_FIRST)),
    (b"Rar!\x1a\x07", Stranger(gettext_noop("a RAR archive"), UNPACK_FIRST)),
    (b"\x89PNG\r\n\x1a\n", Stranger(gettext_noop("a PNG image"), EXPORT_AS_CSV)),
    (b"\xff\xd8\xff", Stranger(gettext_noop("a JPEG image"), EXPORT_AS_CSV)),
    (b"GIF89a", Stranger(gettext_noop("a GIF image"), EXPORT_AS_CSV)),
    (b"%PDF-", Stranger(gettext_noop("a PDF document"), EXPORT_AS_CSV)),
    (b"{\\rtf", Stranger(gettext_noop("an RTF document"), EXPORT_AS_CSV)),
    (b"GGUF\x03\x00", Stranger(gettext_noop("a GGUF model file"), EXPORT_AS_CSV)),
    (b"\x7fELF", Stranger(gettext_noop("a program"), EXPORT_AS_CSV)),
)
# Formats whose signature has a varying part: the level of bzip2, the protocol of a pickle.
PATTERNS: tuple[tuple[re.Pattern[bytes], Stranger], ...] = (
    (re.compile(rb"BZh[1-9]1AY&SY"), Stranger(gettext_noop("a bzip2 archive"), UNPACK_FIRST)),
    (re.compile(rb"\x80[\x02-\x05]."), Stranger(gettext_noop("a Python pickle"), EXPORT_AS_CSV)),
)

ZIP_SIGNATURES = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
# Office files are ZIP archives whose member names, stored uncompressed, give them away.
ZIP_MEMBERS: tuple[tuple[bytes, Stranger], ...] = (
    (b"xl/", Stranger(gettext_noop("an Excel workbook (.xlsx)"), EXPORT_AS_CSV)),
    (b"word/", Stranger(gettext_noop("a Word document (.docx)"), EXPORT_AS_CSV)),
    (b"opendocument.spreadsheet", Stranger(gettext_noop("an OpenDocument spreadsheet (.ods)"), EXPORT_AS_CSV)),
)
ZIP = Stranger(gettext_noop("a ZIP archive"), UNPACK_FIRST)

MARKUP: tuple[tuple[bytes, Stranger], ...] = (
    (b"<!doctype html", Stranger(gettext_noop("an HTML page"), EXPORT_AS_CSV)),
    (b"<html", Stranger(gettext_noop("an HTML page"), EXPORT_AS_CSV)),
    (b"<?xml", Stranger(gettext_noop("an XML document"), EXPORT_AS_CSV)),
)


def recognise(head: bytes, tail: bytes) -> Stranger | None:
    """Return what the file is if it is a known format other than a text table, else None.

    `head` and `tail` are the first and last few kilobytes; a ZIP archive lists its members in both.
    """
    if head.startswith(ZIP_SIGNATURES):
        members = head + tail
        return next((stranger for name, stranger in ZIP_MEMBERS if name in members), ZIP)
    for signature, stranger in SIGNATURES:
        if head.startswith(signature):
            return stranger
    for pattern, stranger in PATTERNS:
        if pattern.match(head):
            return stranger
    opening = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:64].lower()
    return next((stranger for start, stranger in MARKUP if opening.startswith(start)), None)

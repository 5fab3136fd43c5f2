"""ZIP archives and gzip files: their lists are checked before they are believed, their contents are counted."""

from __future__ import annotations

import contextlib
import errno
import gzip
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Final, TypeAlias

from datasets_app.readers.containers.lines_out import Unpacked, is_bomb
from datasets_app.readers.faults import FileRefused
from datasets_app.readers.limits import MIB, Limits

Entry: TypeAlias = zipfile.ZipInfo

BLOCK_BYTES: Final = 1 << 18
MAX_ENTRIES: Final = 1_000
MAX_LIST_BYTES: Final = 4 * MIB
# Of a member with its folders; as long as the column `SourceFile.part`.
MAX_NAME: Final = 255
TABLE_NAME: Final = re.compile(r"\.(csv|tsv|tab|txt|jsonl|ndjson|json|xlsx|parquet|pq)\Z", re.IGNORECASE)
NOT_TABLES: Final = re.compile(r"(^|/)(__MACOSX/|\.|readme|licen[cs]e|dataset_infos?\.json)", re.IGNORECASE)
SPLIT_WORDS: Final = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval"),
    "test": ("test", "testing", "holdout"),
}
KNOWN_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
OFFICE: Final = (
    ("word/document.xml", "a Word document (.docx)"),
    ("ppt/presentation.xml", "a presentation (.pptx)"),
    ("xl/workbook.bin", "a binary Excel workbook (.xlsb)"),
    ("META-INF/manifest.xml", "an OpenDocument file"),
)
END_RECORD: Final = b"PK\x05\x06"
END_RECORD_64: Final = b"PK\x06\x06"
ENCRYPTED_FLAG: Final = 1


def entries_of(path: Path, limits: Limits) -> list[Entry]:
    """Return the entries of a ZIP archive. Raises: FileRefused for a list that is too long, broken or unsafe."""
    _refuse_long_list(path)
    with _damage_is_refused(), zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if len(entries) > MAX_ENTRIES:
        raise FileRefused("archive_entries", limit=MAX_ENTRIES)
    for entry in entries:
        _refuse_unsafe(entry)
    return entries


@contextlib.contextmanager
def _damage_is_refused() -> Iterator[None]:
    """Turn whatever the standard library says of a damaged archive into our own refusal."""
    try:
        yield
    except FileRefused:  # a ValueError itself
        raise
    except (zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, struct.error, EOFError, ValueError, NotImplementedError):
        raise FileRefused("container_damaged") from None
    except OSError as error:
        if error.errno != errno.EINVAL:  # a place before the beginning of the file
            raise
        raise FileRefused("container_damaged") from None


def _refuse_long_list(path: Path) -> None:
    """Look at what the archive says about its list before the list is read: a million entries fill the memory."""
    with path.open("rb") as file:
        size_bytes = path.stat().st_size
        file.seek(max(0, size_bytes - (1 << 16) - 256))
        tail = file.read()
    found = tail.rfind(END_RECORD)
    if found < 0 or len(tail) - found < 22:
        raise FileRefused("container_damaged")
    count, list_bytes = struct.unpack_from("<HI", tail, found + 10)
    longer = tail.rfind(END_RECORD_64, 0, found)
    if longer >= 0 and len(tail) - longer >= 56:
        count, list_bytes = struct.unpack_from("<QQ", tail, longer + 32)
    if count > MAX_ENTRIES or list_bytes > MAX_LIST_BYTES:
        raise FileRefused("archive_entries", limit=MAX_ENTRIES)


def _refuse_unsafe(entry: Entry) -> None:
    """Names are never used as paths here; an archive that tries is no honest one."""
    name = entry.filename.replace("\\", "/")
    is_link = stat.S_ISLNK(entry.external_attr >> 16)
    if is_link or name.startswith("/") or ".." in name.split("/") or re.match(r"[A-Za-z]:", name) or "\0" in name:
        raise FileRefused("archive_unsafe")


def refuse_office(entries: Sequence[Entry]) -> None:
    """Raise FileRefused for a ZIP archive that is a document of another program."""
    names = {entry.filename for entry in entries}
    for name, what in OFFICE:
        if name in names:
            raise FileRefused("not_a_table", what=what, advice="Save it as .xlsx or CSV and upload that.")


def tables_in(entries: Sequence[Entry]) -> list[Entry]:
    """Return the entries that are tables by their names. Raises: FileRefused if there is none."""
    tables = [
        entry
        for entry in entries
        if not entry.is_dir() and TABLE_NAME.search(entry.filename) and not NOT_TABLES.search(entry.filename)
    ]
    if not tables:
        raise FileRefused("archive_no_table")
    if any(len(entry.filename) > MAX_NAME for entry in tables):
        raise FileRefused("archive_long_name", limit=MAX_NAME)
    return tables


def split_of(name: str) -> str:
    """Return the split that the name of a sheet or member speaks of, or ""."""
    words = re.findall(r"[a-z]+", name.rpartition("/")[2].lower())
    return next((split for split, known in SPLIT_WORDS.items() if any(word in known for word in words)), "")


def chosen_of(names: Sequence[str], part: str) -> str:
    """Return the part that is wanted, else the one for training, else the first. Raises: FileRefused."""
    if part:
        if part not in names:
            raise FileRefused("part_missing")
        return part
    return next((name for name in names if split_of(name) == "train"), names[0])


def extract(path: Path, entry: Entry, out: Path, limits: Limits) -> None:
    """Write the bytes of one member to `out`. Raises: FileRefused."""
    if entry.flag_bits & ENCRYPTED_FLAG:
        raise FileRefused("archive_encrypted")
    if entry.compress_type not in KNOWN_METHODS:
        raise FileRefused("archive_method")
    with _damage_is_refused(), zipfile.ZipFile(path) as archive, archive.open(entry) as member:
        _copy(member, out, entry.compress_size, limits)


def unpack_gzip(path: Path, out: Path, part: str, limits: Limits) -> Unpacked:
    """Write what a gzip file holds to `out`. Raises: FileRefused; what is inside must be text."""
    with _damage_is_refused(), gzip.open(path) as file:
        _copy(file, out, path.stat().st_size, limits)
    return Unpacked("gzip", is_text=True)


def _copy(source: IO[bytes] | gzip.GzipFile, out: Path, packed_bytes: int, limits: Limits) -> None:
    size_bytes = 0
    with out.open("wb") as target:
        while block := source.read(BLOCK_BYTES):
            size_bytes += len(block)
            if is_bomb(size_bytes, packed_bytes):
                raise FileRefused("archive_bomb")
            if size_bytes > limits.max_unpacked_bytes:
                raise FileRefused("unpacked_too_large", limit=limits.max_unpacked_bytes // MIB)
            target.write(block)

"""Uploaded files: stored under names of our own, hashed on the way, looked at, and opened as tables."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Final, TypeAlias

from django.conf import settings
from django.core.files.uploadedfile import UploadedFile
from django.utils.translation import gettext as _

from datasets_app.mapping import Mapping as ColumnMapping
from datasets_app.mapping import MappingError, guess_mapping
from datasets_app.models import DatasetVersion, SourceFile, Split
from datasets_app.readers import DEFAULT_LIMITS, DataError, Detection, FileRefused, Limits, Table, detect, open_table
from portal.display.numbers import filesize
from portal.errors import InvalidInput, InvalidSource, PortalError, TooLarge

Upload: TypeAlias = "UploadedFile[bytes] | Path"

BLOCK_BYTES: Final = 1 << 20
SAMPLE_ROWS: Final = 50


@dataclass(frozen=True)
class Reading:
    """How a person wants a file to be read; what is empty stays as it was found."""

    encoding: str = ""
    delimiter: str = ""


def limits() -> Limits:
    """Return the bounds of an import, the size of a file being the portal's own setting."""
    return replace(DEFAULT_LIMITS, max_bytes=settings.MAX_UPLOAD_BYTES)


def refuse_oversize(content_length: str | None) -> None:
    """Raise TooLarge for a request that cannot hold acceptable files only.

    The upload handler drops a file that is over the limit without a word, so the length has to speak.
    """
    limit = settings.MAX_UPLOAD_BYTES
    if content_length and content_length.isdigit() and int(content_length) > limit:
        raise TooLarge(
            _("The upload is larger than %(limit)s. Split the file into smaller ones.") % {"limit": filesize(limit)},
            code="file_too_large",
        )


@contextmanager
def folder_or_nothing(folder: Path) -> Iterator[Path]:
    """Make a folder; take it away again, with all that is in it, if the block fails."""
    folder.mkdir(parents=True)
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def store(source: SourceFile, content: Upload) -> None:
    """Copy an upload to `source.path`, note its size and hash, look at it, and save the row.

    Raises: TooLarge before anything is copied; InvalidSource if the file is no table.
    """
    limit, size = settings.MAX_UPLOAD_BYTES, size_bytes(content)
    if size > limit:
        raise refusal(FileRefused("file_too_large", size=size, limit=limit), source)
    with _opened(content) as stream:
        source.size_bytes, source.sha256 = _copy(stream, source.path)
    _look_at(source)
    source.save()


def in_order(version: DatasetVersion) -> list[SourceFile]:
    """Return the source files of a version: training, validation, test."""
    order = [split.value for split in Split]
    stored = version.sources.select_related("version__team")
    return sorted(stored, key=lambda source: order.index(source.split))


def read_as(source: SourceFile, reading: Reading) -> None:
    """Read a source in the encoding and with the delimiter that a person chose, and save the row.

    Raises: InvalidSource if the file cannot be read that way.
    """
    source.encoding = reading.encoding or source.encoding
    source.delimiter = reading.delimiter or source.delimiter
    _learn_columns(source)
    source.save(update_fields=["encoding", "delimiter", "kind", "columns"])


def open_source(source: SourceFile, reading: Reading | None = None) -> Table:
    """Return a stored file as a table, read as its row says or as `reading` asks.

    Raises: FileRefused if it cannot be read that way, or if its encoding has still to be chosen.
    """
    chosen = reading or Reading()
    encoding, delimiter = chosen.encoding or source.encoding, chosen.delimiter or source.delimiter
    return open_table(source.path, limits=limits(), encoding=encoding or None, delimiter=delimiter or None)


def likely_encoding(source: SourceFile) -> str:
    """Return the encoding that was chosen or found, else the likeliest of those to choose from."""
    candidates = source.encoding_doubts.get("candidates", [])
    return source.encoding or (str(candidates[0]["encoding"]) if candidates else "utf-8")


def guess(source: SourceFile, reading: Reading | None = None) -> ColumnMapping:
    """Return the likeliest mapping of a source's columns; what cannot be guessed stays unset."""
    try:
        table = open_source(source, reading or Reading(likely_encoding(source)))
    except FileRefused:
        return ColumnMapping()
    return guess_mapping(table.columns, table.sample(SAMPLE_ROWS))


def size_bytes(content: Upload) -> int:
    """Return how large an upload is."""
    return content.stat().st_size if isinstance(content, Path) else int(content.size or 0)


def shown_name(content: Upload) -> str:
    """Return the file's own name, fit to be shown and stored: it is never used as a path."""
    name = "".join(character for character in Path(content.name or "").name if character.isprintable())
    return name[-255:] or "file"


def refusal(error: DataError, source: SourceFile) -> PortalError:
    """Return the error for people and programs that says which file is meant, what is wrong and what to do."""
    sentence = error.sentence(_)
    if isinstance(error, MappingError):
        return InvalidInput(sentence, param="mapping", code=error.code)
    message = _("“%(file)s”: %(sentence)s") % {"file": source.name, "sentence": sentence}
    if error.code == "file_too_large":
        return TooLarge(message, param=param_of(source.split), code=error.code)
    detail = {"file": source.name, "split": str(source.split), "line": error.params.get("line"), "column": None}
    detail |= {"code": error.code, "message": sentence}
    return InvalidSource(message, param=param_of(source.split), code=error.code, details=[detail])


def param_of(split: str) -> str:
    """Return the name under which the file of a split is uploaded."""
    return f"{Split(split).value}_file"


@contextmanager
def _opened(content: Upload) -> Iterator[IO[bytes]]:
    if isinstance(content, Path):
        with content.open("rb") as stream:
            yield stream
    else:
        with content.open("rb") as upload:
            yield upload


def _copy(stream: IO[bytes], path: Path) -> tuple[int, str]:
    """Copy a stream to a new file that is on disk when this returns; return its size and sha256."""
    digest, size_bytes = hashlib.sha256(), 0
    with path.open("xb") as file:
        while block := stream.read(BLOCK_BYTES):
            digest.update(block)
            size_bytes += len(block)
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    return size_bytes, digest.hexdigest()


def _look_at(source: SourceFile) -> None:
    """Find out what a stored file is. Its encoding stays empty if a person has to choose it."""
    try:
        found = detect(source.path, limits=limits())
    except FileRefused as error:
        raise refusal(error, source) from None
    source.encoding, source.delimiter = found.encoding or "", found.delimiter or ""
    source.encoding_doubts = _doubts(found)
    _learn_columns(source)


def _learn_columns(source: SourceFile) -> None:
    try:
        table = open_source(source, Reading(likely_encoding(source)))
    except FileRefused as error:
        raise refusal(error, source) from None
    source.kind, source.columns, source.delimiter = table.kind, list(table.columns), table.delimiter or ""


def _doubts(found: Detection) -> dict[str, object]:
    if found.is_certain:
        return {}
    # PostgreSQL stores no NUL characters, and the file may hold a few.
    candidates = [
        {"encoding": one.encoding, "preview": one.preview.replace("\0", "\ufffd")} for one in found.candidates
    ]
    return {"bad_lines": found.bad_lines, "first_bad_line": found.first_bad_line, "candidates": candidates}

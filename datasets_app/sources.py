"""Uploaded files: stored under names of our own, hashed on the way, looked at, and opened as tables."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Final, TypeAlias
from uuid import UUID

from django.conf import settings
from django.core.files.uploadedfile import UploadedFile
from django.db import transaction
from django.http import HttpRequest
from django.utils.translation import gettext as _

from datasets_app import arrivals
from datasets_app.mapping import Mapping as ColumnMapping
from datasets_app.mapping import MappingError, guess_mapping
from datasets_app.models import DatasetVersion, ResumableUpload, SourceFile, Split
from datasets_app.readers import DataError, Detection, FileRefused, Table, detect, open_table
from datasets_app.readers.containers import container_of
from datasets_app.readers.containers.archives import split_of
from datasets_app.unpacking import keep_only, limits, unpack, unpacked_path
from portal.display.numbers import filesize
from portal.errors import InvalidInput, InvalidSource, PortalError, TooLarge, Unavailable
from portal.uploads import has_oversize_file


@dataclass(frozen=True)
class FetchedFile:
    """A file that came from elsewhere and is complete; its bytes are linked, not copied."""

    name: str
    path: Path
    size_bytes: int
    sha256: str
    counted_as: UUID | None = None  # of the row above this room that counts the same bytes as storage already


Upload: TypeAlias = "UploadedFile[bytes] | Path | ResumableUpload | FetchedFile"

BLOCK_BYTES: Final = 1 << 20
SAMPLE_ROWS: Final = 50


@dataclass(frozen=True)
class Reading:
    """How a person wants a file to be read; what is empty stays as it was found."""

    encoding: str = ""
    delimiter: str = ""
    part: str = ""


def refuse_oversize(request: HttpRequest) -> None:
    """Raise TooLarge if a file of the request was over the limit: nothing but its beginning was read.

    Call it when the files have been asked for, for only then they are read.
    """
    limit = settings.MAX_UPLOAD_BYTES
    if has_oversize_file(request):
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
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise Unavailable(_("The disk is full. Ask an admin to make room, then try again.")) from error
        raise


def store_all(version: DatasetVersion, files: Mapping[Split, Upload]) -> None:
    """Store the files of a version; where one file holds the tables of several splits, all of them.

    Raises: as `store`.
    """
    for split, content in files.items():
        source = SourceFile(team=version.team, version=version, split=Split(split), name=shown_name(content))
        store(source, content)
    if len(files) == 1 and source.parts:
        _store_inner(source)


def store(source: SourceFile, content: Upload) -> None:
    """Copy an upload to its place, note its size and hash, look at it, and save the row.

    Raises: TooLarge before anything is copied; InvalidSource if the file is no table.
    """
    size, limit = size_bytes(content), limit_of(content)
    if size > limit:
        raise refusal(FileRefused("file_too_large", size=size, limit=limit), source)
    if isinstance(content, (ResumableUpload, FetchedFile)):
        _link(content.path, source.upload_path)
        source.size_bytes, source.sha256 = content.size_bytes, content.sha256
        source.counted_as = content.counted_as if isinstance(content, FetchedFile) else None
        if isinstance(content, ResumableUpload):
            arrivals.hand_over(content)
    else:
        with _opened(content) as stream:
            source.size_bytes, source.sha256 = _copy(stream, source.upload_path)
    _look_at(source)
    source.save()


def _store_inner(outer: SourceFile) -> None:
    """Make sources of the sheets or members whose names say that they are for validation or test."""
    for split in (Split.VALIDATION, Split.TEST):
        named = [part for part in outer.parts if part != outer.part and split_of(part) == split.value]
        if len(named) == 1:
            inner = SourceFile(team=outer.team, version=outer.version, split=split, name=outer.name, within=outer)
            inner.parts, inner.part, inner.sha256 = outer.parts, named[0], outer.sha256
            _look_at(inner)
            inner.size_bytes = inner.unpacked_bytes
            inner.save()


def in_order(version: DatasetVersion) -> list[SourceFile]:
    """Return the source files of a version: training, validation, test."""
    order = [split.value for split in Split]
    stored = version.sources.select_related("version__team")
    return sorted(stored, key=lambda source: order.index(source.split))


def read_as(source: SourceFile, reading: Reading) -> None:
    """Read a source in the encoding and with the delimiter that a person chose, and save the row.

    Raises: InvalidSource if the file cannot be read that way.
    """
    if source.container and reading.part and reading.part != source.part:
        source.part = reading.part
        _look_at(source)
        # Whoever is refused after all keeps the part that was chosen before.
        transaction.on_commit(partial(keep_only, source, {source.part}))
    if source.is_text:
        source.encoding = reading.encoding or source.encoding
        source.delimiter = reading.delimiter or source.delimiter
    _learn_columns(source)
    source.save()


def open_source(source: SourceFile, reading: Reading | None = None) -> Table:
    """Return a stored file as a table, read as its row says or as `reading` asks.

    Raises: FileRefused or WorkRefused if it cannot be read that way, or if its encoding has still to be chosen.
    """
    chosen = reading or Reading()
    if not source.is_text:  # written by ourselves
        chosen = Reading(part=chosen.part)
    encoding, delimiter = chosen.encoding or source.encoding, chosen.delimiter or source.delimiter
    path = unpacked_path(source, chosen.part) if source.container else source.path
    return open_table(path, limits=limits(), encoding=encoding or None, delimiter=delimiter or None)


def likely_encoding(source: SourceFile) -> str:
    """Return the encoding that was chosen or found, else the likeliest of those to choose from."""
    candidates = source.encoding_doubts.get("candidates", [])
    return source.encoding or (str(candidates[0]["encoding"]) if candidates else "utf-8")


def guess(source: SourceFile, reading: Reading | None = None) -> ColumnMapping:
    """Return the likeliest mapping of a source's columns; what cannot be guessed stays unset."""
    try:
        table = open_source(source, reading or Reading(likely_encoding(source)))
    except DataError:
        return ColumnMapping()
    return guess_mapping(table.columns, table.sample(SAMPLE_ROWS))


def size_bytes(content: Upload) -> int:
    """Return how large an upload is."""
    if isinstance(content, (ResumableUpload, FetchedFile)):
        return content.size_bytes
    return content.stat().st_size if isinstance(content, Path) else int(content.size or 0)


def limit_of(content: Upload) -> int:
    """Return how large an upload may be: what comes in one piece less than what comes in parts or is fetched."""
    return int(settings.MAX_UPLOAD_BYTES if isinstance(content, UploadedFile) else settings.MAX_DATASET_BYTES)


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
def _opened(content: UploadedFile[bytes] | Path) -> Iterator[IO[bytes]]:
    if isinstance(content, Path):
        with content.open("rb") as stream:
            yield stream
    else:
        with content.open("rb") as upload:
            yield upload


def _link(path: Path, place: Path) -> None:
    """Give a file a second name; where that cannot be, a second copy."""
    try:
        place.hardlink_to(path)
    except OSError:
        shutil.copyfile(path, place)


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
    source.encoding = source.delimiter = ""
    source.encoding_doubts = {}
    try:
        if container_of(source.upload_path):
            unpack(source)
        if source.is_text:
            found = detect(source.path, limits=limits())
            source.encoding, source.delimiter = found.encoding or "", found.delimiter or ""
            source.encoding_doubts = _doubts(found)
        else:
            source.encoding = "utf-8"  # of our own making
    except DataError as error:
        raise refusal(error, source) from None
    _learn_columns(source)


def _learn_columns(source: SourceFile) -> None:
    try:
        table = open_source(source, Reading(likely_encoding(source)))
    except DataError as error:
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

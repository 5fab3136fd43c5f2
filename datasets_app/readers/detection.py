"""Find out what a file is: refuse what is no table, and never guess an encoding silently."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from datasets_app.readers.dialect import find_delimiter
from datasets_app.readers.faults import FileRefused
from datasets_app.readers.limits import DEFAULT_LIMITS, Limits
from datasets_app.readers.lines import UTF8_BOM, LineEnd, is_utf16
from datasets_app.readers.magic import EXPORT_AS_CSV, ONE_OBJECT_A_LINE, recognise
from datasets_app.readers.sentences import gettext_noop
from datasets_app.readers.utf8 import Utf8Scan, scan_utf8

Kind = Literal["csv", "tsv", "jsonl"]

HEAD_BYTES: Final = 1 << 18
TAIL_BYTES: Final = 1 << 16
PREVIEW_LINES: Final = 5
PREVIEW_CHARACTERS: Final = 400

# Encodings that may be chosen, as Python names them. All but UTF-16 agree with ASCII, so lines can be cut bytewise.
ENCODINGS: Final = (
    "utf-8", "utf-16", "utf-16-le", "utf-16-be", "cp1251", "cp1252", "koi8-r", "cp866", "iso8859-1", "iso8859-5",
)  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """An encoding the file may have, with a few of its lines read that way."""

    encoding: str
    preview: str


@dataclass(frozen=True)
class Detection:
    """What a file seems to be.

    `encoding` is None when a person must choose one of `candidates`. Candidates are also offered when the
    file is taken for UTF-8 although `bad_lines` of it are not. `delimiter` is None for JSON lines.
    """

    kind: Kind
    encoding: str | None
    delimiter: str | None
    candidates: tuple[Candidate, ...]
    bad_lines: int
    first_bad_line: int | None
    line_end: LineEnd
    size_bytes: int

    @property
    def is_certain(self) -> bool:
        """Whether every byte of the file fits the encoding that was found."""
        return self.encoding is not None and self.bad_lines == 0


def detect(path: Path, *, limits: Limits = DEFAULT_LIMITS, encoding: str | None = None) -> Detection:
    """Look at a file's content and return what it is; with `encoding` given, take it as it is.

    Reads the whole file once, in constant memory, when the encoding is not given.
    Raises: FileRefused for a file that is too large, empty, binary, or a known format other than a table.
    """
    if encoding is not None and encoding not in ENCODINGS:
        raise FileRefused("encoding_unsupported", encoding=encoding, supported=", ".join(ENCODINGS))
    head, tail, size_bytes = _ends(path, limits)
    _refuse_strangers(head, tail)
    utf16 = encoding if encoding and is_utf16(encoding) else _utf16_of(head)
    if utf16 is not None:
        return _utf16_detection(head, utf16, size_bytes, chosen=encoding is not None)
    if head.count(0) > max(8, len(head) // 1000):
        raise FileRefused("binary")
    line_end: LineEnd = "\r" if b"\n" not in head and b"\r" in head else "\n"
    scan = Utf8Scan() if encoding else scan_utf8(path, line_end.encode())
    found = encoding or ("utf-8" if scan.is_plausible else None)
    text = head.removeprefix(UTF8_BOM).decode(found or "latin-1", "replace")
    kind, delimiter = _kind_of(text)
    return Detection(
        kind=kind,
        encoding=found,
        delimiter=delimiter,
        candidates=_candidates(scan.bad_sample) if scan.bad_lines else (),
        bad_lines=scan.bad_lines,
        first_bad_line=scan.first_bad_line,
        line_end=line_end,
        size_bytes=size_bytes,
    )


def _ends(path: Path, limits: Limits) -> tuple[bytes, bytes, int]:
    size_bytes = path.stat().st_size
    if size_bytes > limits.max_bytes:
        raise FileRefused("file_too_large", size=size_bytes, limit=limits.max_bytes)
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        file.seek(-min(size_bytes, TAIL_BYTES), os.SEEK_END)
        tail = file.read(TAIL_BYTES)
    if not head.removeprefix(UTF8_BOM).strip():
        raise FileRefused("empty_file")
    return head, tail, size_bytes


def _refuse_strangers(head: bytes, tail: bytes) -> None:
    stranger = recognise(head, tail)
    if stranger is not None:
        raise FileRefused("not_a_table", what=stranger.what, advice=stranger.advice)


def _utf16_of(head: bytes) -> str | None:
    """Return the form of UTF-16 that the file's first bytes show, if any."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    even, odd = head[0:4096:2].count(0), head[1:4096:2].count(0)
    half = len(head[:4096]) // 2
    # In Latin text nearly every second byte is NUL, in Cyrillic text those of blanks, digits and delimiters are.
    # A handful of NULs proves nothing: a damaged text has them as well.
    enough = max(4, half // 10)
    if odd > enough and even * 20 < odd:
        return "utf-16-le"
    if even > enough and odd * 20 < even:
        return "utf-16-be"
    return None


def _utf16_detection(head: bytes, encoding: str, size_bytes: int, *, chosen: bool) -> Detection:
    text = head[: len(head) // 2 * 2].decode(encoding, "replace").removeprefix("\ufeff")
    kind, delimiter = _kind_of(text)
    return Detection(
        kind=kind,
        encoding=encoding if chosen else None,
        delimiter=delimiter,
        candidates=() if chosen else (Candidate(encoding, _preview(text)),),
        bad_lines=0,
        first_bad_line=None,
        line_end="\r" if "\n" not in text and "\r" in text else "\n",
        size_bytes=size_bytes,
    )


def _kind_of(text: str) -> tuple[Kind, str | None]:
    """Return the kind and the delimiter of a table from the beginning of its text."""
    opening = text.lstrip()
    first_line = opening.partition("\n")[0].rstrip()
    if opening.startswith("{"):
        if first_line == "{":
            raise FileRefused("not_a_table", what=gettext_noop("one JSON document"), advice=ONE_OBJECT_A_LINE)
        return "jsonl", None
    if re.match(r"\[\s*(\{|\]|\[)", opening):
        raise FileRefused("not_a_table", what=gettext_noop("a JSON array"), advice=ONE_OBJECT_A_LINE)
    if re.match(r"[\x00-\x08\x0e-\x1f]", opening):
        raise FileRefused("not_a_table", what=gettext_noop("a binary file"), advice=EXPORT_AS_CSV)
    delimiter = find_delimiter(text)
    return ("tsv" if delimiter == "\t" else "csv"), delimiter


def _candidates(sample: bytes) -> tuple[Candidate, ...]:
    """Return the likelier of the two common one-byte encodings first.

    Russian words are runs of high bytes; in western European text an accented letter stands alone among ASCII.
    """
    in_runs = sum(len(run) for run in re.findall(rb"[\x80-\xff]{3,}", sample))
    alone = sum(byte >= 0x80 for byte in sample) - in_runs
    order = ("cp1251", "cp1252") if in_runs > alone else ("cp1252", "cp1251")
    return tuple(Candidate(name, _preview(sample.decode(name, "replace"))) for name in order)


def _preview(text: str) -> str:
    return "\n".join(text.splitlines()[:PREVIEW_LINES])[:PREVIEW_CHARACTERS]

"""Rows of JSON Lines: one object a line, read strictly, so that what is stored can always be written again."""

import json
import math
import re
from collections.abc import Iterator
from typing import Final

from datasets_app.readers.faults import FileRefused, Record, RowFault
from datasets_app.readers.header import checked_columns
from datasets_app.readers.json_reasons import reason_of
from datasets_app.readers.limits import Limits
from datasets_app.readers.lines import LineReader, LineTooLong
from datasets_app.readers.sentences import ROW_SENTENCES

# The columns of JSON Lines are the keys of the first objects; later objects may leave some out.
LOOK_AHEAD_ROWS: Final = 100
LOOK_AHEAD_BYTES: Final = 1 << 20
HALF_CHARACTER: Final = re.compile("[\ud800-\udfff]")
SUSPICIOUS_ESCAPE: Final = re.compile(r"\\u(?:[dD][89a-fA-F]|0000)")


class JsonFault(ValueError):
    """A JSON text that is refused; `code` is one of the row sentences."""

    def __init__(self, code: str, **params: object) -> None:
        super().__init__(code)
        self.code = code
        self.params = params

    @property
    def reason(self) -> str:
        """What is wrong and where, for a sentence that goes on."""
        if self.code == "bad_json":
            return f"{self.params['reason']}, at character {self.params['position']}"
        return ROW_SENTENCES[self.code].partition(". ")[0] % self.params


def parse_json(text: str, *, max_depth: int) -> object:
    """Return the value of a JSON text, more strictly than `json.loads`.

    Raises: JsonFault for invalid JSON, NaN, infinities, endless numbers, repeated keys, deep nesting, NUL and
    lone surrogates.
    """
    if text.count("{") == 1 and "[" not in text and "\\" not in text:
        plain = _plain_object(text)
        if plain is not None:
            return plain
    try:
        value: object = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise JsonFault("bad_json", reason=reason_of(error), position=error.pos + 1) from None
    except RecursionError:
        raise JsonFault("json_too_deep", limit=max_depth) from None
    except JsonFault:
        raise
    except ValueError:
        # Python refuses to convert integers of more than 4,300 digits.
        raise JsonFault("json_number") from None
    if text.count("[") + text.count("{") > max_depth:
        refuse_depth(value, max_depth)
    if "\\u" in text and SUSPICIOUS_ESCAPE.search(text):
        _refuse_characters(json.dumps(value, ensure_ascii=False))
    return value


def _plain_object(text: str) -> dict[str, object] | None:
    """Return the object of a text without nesting and escapes, as most answers are; None if a closer look is needed."""
    try:
        value, end = _scan_plain(text, 0)
    except (StopIteration, ValueError, RecursionError):
        return None
    # Every pair has a colon: as many keys as colons means that no key came twice.
    is_whole = end == len(text) and isinstance(value, dict) and text.count(":") == len(value)
    return value if is_whole else None


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise JsonFault("json_number")
    return number


def _no_constant(name: str) -> object:
    raise JsonFault("json_number")


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise JsonFault("json_duplicate_key")
    return members


_PLAIN_DECODER: Final = json.JSONDecoder(parse_float=_finite, parse_constant=_no_constant)
_scan_plain: Final = _PLAIN_DECODER.scan_once  # type: ignore[attr-defined]
_DECODER: Final = json.JSONDecoder(object_pairs_hook=_unique_keys, parse_float=_finite, parse_constant=_no_constant)


def refuse_depth(value: object, max_depth: int) -> None:
    """Raise JsonFault for a value that is nested deeper."""
    level = [value]
    for _ in range(max_depth + 1):
        inner: list[object] = []
        for container in level:
            if isinstance(container, dict):
                inner.extend(container.values())
            elif isinstance(container, list):
                inner.extend(container)
        if not inner:
            return
        level = inner
    raise JsonFault("json_too_deep", limit=max_depth)


def _refuse_characters(written: str) -> None:
    if HALF_CHARACTER.search(written):
        raise JsonFault("surrogate")
    # A real escaped NUL comes out of json.dumps as the escape again, after an even number of backslashes.
    if re.search(r"(?<!\\)(?:\\\\)*\\u0000", written):
        raise JsonFault("nul")


class JsonLinesReader:
    """Read the records of one JSON Lines file, once. Raises FileRefused from the constructor if it has none."""

    def __init__(self, lines: LineReader, *, encoding: str, limits: Limits) -> None:
        self._lines = lines
        self._encoding = encoding
        self._limits = limits
        self._bytes_seen = 0
        self._ahead = self._look_ahead()
        keys = {key: None for item in self._ahead if isinstance(item, Record) for key in item.values}
        if not keys:
            raise FileRefused("no_json_rows")
        self.columns = checked_columns(tuple(keys), limits)

    def records(self) -> Iterator[Record | RowFault]:
        """Yield every object of the file, or the fault that stands in its place."""
        yield from self._ahead
        while (item := self._next()) is not None:
            yield item

    def _look_ahead(self) -> list[Record | RowFault]:
        ahead: list[Record | RowFault] = []
        while len(ahead) < LOOK_AHEAD_ROWS and self._bytes_seen < LOOK_AHEAD_BYTES:
            item = self._next()
            if item is None:
                break
            ahead.append(item)
        return ahead

    def _next(self) -> Record | RowFault | None:
        """Return the next line that is not blank, or None at the end of the file."""
        while True:
            try:
                raw = self._lines.read()
            except LineTooLong as error:
                return RowFault(error.number, None, "line_too_long", {"limit": self._limits.max_row_bytes})
            if not raw:
                return None
            if not raw.isspace():
                return self._record(raw)

    def _record(self, raw: bytes) -> Record | RowFault:
        line = self._lines.number
        self._bytes_seen += len(raw)
        if b"\0" in raw:
            return RowFault(line, None, "nul")
        try:
            value = parse_json(raw.decode(self._encoding), max_depth=self._limits.max_json_depth)
        except UnicodeDecodeError as error:
            params = {"byte": raw[error.start], "position": error.start + 1, "encoding": self._encoding}
            return RowFault(line, None, "bad_byte", params)
        except JsonFault as fault:
            return RowFault(line, None, fault.code, fault.params)
        if not isinstance(value, dict):
            return RowFault(line, None, "not_an_object")
        if len(raw) > self._limits.max_cell_bytes:
            return self._with_short_cells(line, value)
        return Record(line, value)

    def _with_short_cells(self, line: int, values: dict[str, object]) -> Record | RowFault:
        limit = self._limits.max_cell_bytes
        for column, value in values.items():
            if len(json.dumps(value, ensure_ascii=False).encode()) > limit:
                return RowFault(line, column, "cell_too_long", {"limit": limit})
        return Record(line, values)

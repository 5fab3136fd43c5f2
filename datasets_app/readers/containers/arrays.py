"""A JSON document that is one array of objects, as Alpaca and ShareGPT files are: one object a line, item = row."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from datasets_app.readers.containers.lines_out import LinesOut, Unpacked
from datasets_app.readers.faults import FileRefused
from datasets_app.readers.limits import Limits

BLOCK_BYTES: Final = 1 << 20
BETWEEN: Final = re.compile(r"[ \t\r\n]*")
OPENING: Final = re.compile(rb"(?:\xef\xbb\xbf)?\s*\[\s*[{\[\]]")


def is_array(head: bytes) -> bool:
    """Tell whether a file begins like an array of objects."""
    return OPENING.match(head) is not None


def unpack(path: Path, out: Path, part: str, limits: Limits) -> Unpacked:
    """Write item after item to `out`, line number = number of the item. Raises: FileRefused."""
    try:
        with LinesOut(out, limits, packed_bytes=path.stat().st_size) as lines:
            for number, item in enumerate(_items(path, limits), 1):
                # Outside of strings a line end means nothing, inside of them JSON does not allow one.
                lines.add_json(number, item.replace("\n", " ").replace("\r", " ").encode("utf-8", "surrogatepass"))
    except UnicodeDecodeError:
        raise FileRefused("json_not_utf8") from None
    return Unpacked("json")


def _items(path: Path, limits: Limits) -> Iterator[str]:
    """Yield the text of each item; the strict reader of JSON lines judges it later."""
    blocks = _blocks(path)
    text = next(blocks, "").lstrip().removeprefix("[")
    position = number = 0
    needs_comma = False
    while True:
        between = BETWEEN.match(text, position)
        position = between.end() if between else position
        if text.startswith("]", position):
            if text[position + 1 :].strip() or any(block.strip() for block in blocks):
                raise FileRefused("json_array_broken", item=number + 1)
            return
        start = _behind_comma(text, position) if needs_comma else position
        end = _end_of_item(text, start)
        if end is not None:
            number += 1
            yield text[start:end]
            position, needs_comma = end, True
            continue
        # Cut only here: a cut for each item would copy the whole block for each.
        text, position = text[position:], 0
        block = next(blocks, None)
        if block is None or len(text) > limits.max_row_bytes:
            raise FileRefused("json_array_broken", item=number + 1)
        text += block


def _behind_comma(text: str, position: int) -> int:
    """Return where the next item begins, or the end of the text if no comma stands before it."""
    if not text.startswith(",", position):
        return len(text)
    between = BETWEEN.match(text, position + 1)
    return between.end() if between else position + 1


def _end_of_item(text: str, start: int) -> int | None:
    """Return where the item at `start` ends, or None if it goes on behind the text, or never ends."""
    try:
        _value, end = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        return None
    # A number at the very end may have more digits in the next block.
    return end if end < len(text) else None


_DECODER: Final = json.JSONDecoder(parse_int=float)


def _blocks(path: Path) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            yield decoder.decode(block)
    yield decoder.decode(b"", final=True) + " "

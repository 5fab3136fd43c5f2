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
BETWEEN: Final = re.compile(r"[\s,]*")
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
    number = 0
    while True:
        text = text[_end_of(BETWEEN.match(text)) :]
        if text.startswith("]"):
            return
        end = _end_of_item(text)
        if end is not None:
            number += 1
            yield text[:end]
            text = text[end:]
            continue
        block = next(blocks, None)
        if block is None or len(text) > limits.max_row_bytes:
            raise FileRefused("json_array_broken", item=number + 1)
        text += block


def _end_of_item(text: str) -> int | None:
    """Return where the item at the beginning ends, or None if it goes on behind the text, or never ends."""
    try:
        _value, end = _DECODER.raw_decode(text)
    except (ValueError, RecursionError):
        return None
    # A number at the very end may have more digits in the next block.
    return end if end < len(text) else None


_DECODER: Final = json.JSONDecoder(parse_int=float)


def _end_of(match: re.Match[str] | None) -> int:
    return match.end() if match else 0


def _blocks(path: Path) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            yield decoder.decode(block)
    yield decoder.decode(b"", final=True) + " "

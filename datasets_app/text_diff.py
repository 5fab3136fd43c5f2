"""Which words of a text were taken away and which were put in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Final, Literal

_WORDS: Final = re.compile(r"\w+|\s+|[^\w\s]")
# Comparing takes time with the square of the words; longer texts are shown whole, before and after.
MAX_WORDS: Final = 3_000


@dataclass(frozen=True)
class Piece:
    """A part of a text: kept in both, only in the old, or only in the new one."""

    kind: Literal["same", "gone", "new"]
    text: str


def pieces(old: str, new: str) -> list[Piece]:
    """Return the two texts as one, piece by piece; without the "new" pieces it is `old`, without the "gone" `new`."""
    if old == new:
        return [Piece("same", old)] if old else []
    before, after = _WORDS.findall(old), _WORDS.findall(new)
    if len(before) + len(after) > MAX_WORDS:
        return [Piece(kind, text) for kind, text in (("gone", old), ("new", new)) if text]  # type: ignore[arg-type]
    found: list[Piece] = []
    for tag, first, last, begin, end in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag == "equal":
            found.append(Piece("same", "".join(before[first:last])))
            continue
        if last > first:
            found.append(Piece("gone", "".join(before[first:last])))
        if end > begin:
            found.append(Piece("new", "".join(after[begin:end])))
    return found

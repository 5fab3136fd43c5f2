"""Texts as sets of short pieces: hashed runs of characters, made for many texts at once.

Python sees whole batches only; a text of 250 characters costs some microseconds.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from datasets_app.rows import CanonicalRow

Hashes = npt.NDArray[np.uint32]
Places = npt.NDArray[np.int64]

RUN: Final = 5
# Of a longer text the beginning stands for the whole.
MAX_CHARACTERS: Final = 4_000
# Pieces that so many texts have are the template around them and say nothing about their likeness.
COMMON_SHARE: Final = 0.5
MIN_FOR_COMMON: Final = 200
TABLE_BITS: Final = 20
_DIGITS: Final = re.compile(r"\d+")
_BLANKS: Final = re.compile(r"\s+")


@dataclass(frozen=True)
class Pieces:
    """The pieces of some texts one after the other; those of text n begin at `starts[n]`."""

    hashes: Hashes
    starts: Places

    @property
    def counts(self) -> Places:
        """How many pieces each text has."""
        return np.diff(np.append(self.starts, len(self.hashes)))

    def kept(self, keep: npt.NDArray[np.bool_]) -> Pieces:
        """Return the pieces for which `keep` holds."""
        before = np.concatenate(([0], np.cumsum(keep)))
        return Pieces(self.hashes[keep], before[self.starts])


def comparable(row: CanonicalRow) -> str:
    """Return the text by which rows are compared: what users say, whatever the case, the blanks and the numbers."""
    told = " ".join(one["content"][:MAX_CHARACTERS] for one in row.messages[:-1] if one["role"] != "system")
    text = unicodedata.normalize("NFKC", told[:MAX_CHARACTERS]).casefold()
    return _BLANKS.sub(" ", _DIGITS.sub("0", text)).strip()


def pieces_of(texts: Sequence[str], run: int = RUN) -> Pieces:
    """Return the hashed runs of `run` characters of each text; a shorter text is one piece."""
    padded = [text if len(text) >= run else text.ljust(run, "\0") for text in texts]
    characters = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    if not len(characters):
        return Pieces(np.zeros(0, dtype=np.uint32), np.zeros(0, dtype=np.int64))
    lengths = np.fromiter(map(len, padded), dtype=np.int64, count=len(padded))
    hashes = np.zeros(len(characters) - run + 1, dtype=np.uint32)
    for place in range(run):
        hashes *= np.uint32(0x01000193)
        hashes ^= characters[place : place + len(hashes)]
    _mix(hashes)
    counts = lengths - run + 1
    starts = np.cumsum(counts) - counts
    # A run that begins in the last characters of one text would reach into the next.
    first = np.cumsum(lengths) - lengths
    inside = np.arange(counts.sum()) + np.repeat(first - starts, counts)
    return Pieces(hashes[inside], starts)


def _mix(hashes: Hashes) -> None:
    """Spread the bits, as the end of MurmurHash3 does."""
    hashes ^= hashes >> np.uint32(16)
    hashes *= np.uint32(0x85EBCA6B)
    hashes ^= hashes >> np.uint32(13)
    hashes *= np.uint32(0xC2B2AE35)
    hashes ^= hashes >> np.uint32(16)


class CommonPieces:
    """The pieces that many texts of a sample share, such as the words of a prompt template."""

    def __init__(self, sample: Sequence[str]) -> None:
        self._common: npt.NDArray[np.bool_] | None = None
        if len(sample) < MIN_FOR_COMMON:
            return
        texts_with = np.zeros(1 << TABLE_BITS, dtype=np.int64)
        for text in sample:
            texts_with[np.unique(_slots(pieces_of([text]).hashes))] += 1
        self._common = texts_with > COMMON_SHARE * len(sample)

    def without(self, pieces: Pieces) -> Pieces:
        """Return the pieces that are not common."""
        if self._common is None:
            return pieces
        return pieces.kept(~self._common[_slots(pieces.hashes)])


def _slots(hashes: Hashes) -> Places:
    return (hashes >> np.uint32(32 - TABLE_BITS)).astype(np.int64)

"""Near duplicates: questions that share most of their text, found without comparing every row with every other.

MinHash signatures and locality-sensitive hashing (Broder 1997; Indyk and Motwani 1998) in numpy: a signature costs
one pass over a batch of texts, where a library that hashes row by row in Python takes fifty times as long.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Final

import numpy as np
import numpy.typing as npt

from datasets_app.doctor.groups import first_alike
from datasets_app.doctor.shingles import CommonPieces, Pieces, comparable, pieces_of
from datasets_app.rows import CanonicalRow

Positions = npt.NDArray[np.int64]
Signatures = npt.NDArray[np.uint16]

BANDS: Final = 24
ROWS_PER_BAND: Final = 4
PERMUTATIONS: Final = BANDS * ROWS_PER_BAND
NEAR_SHARE: Final = 0.75
# Texts with fewer own pieces are compared letter by letter only: a single word decides there.
MIN_PIECES: Final = 12
# A bucket of alike rows is compared with so many of its rows; more would be quadratic.
MAX_LEADERS: Final = 32
SAMPLE: Final = 2_000
TEXTS_AT_ONCE: Final = 512


class SignatureMaker:
    """Makes the signatures of texts; the same seed gives the same signatures everywhere."""

    def __init__(self, common: CommonPieces) -> None:
        self._common = common
        random = np.random.Generator(np.random.PCG64(20240229))
        self._factors = (random.integers(0, 1 << 31, PERMUTATIONS) * 2 + 1).astype(np.uint32)
        self._offsets = random.integers(0, 1 << 32, PERMUTATIONS).astype(np.uint32)

    def make(self, texts: list[str]) -> tuple[Signatures, npt.NDArray[np.bool_]]:
        """Return a signature per text, and whether the text has enough pieces of its own to be compared by it."""
        pieces = self._common.without(pieces_of(texts))
        usable = pieces.counts >= MIN_PIECES
        signatures = np.zeros((len(texts), PERMUTATIONS), dtype=np.uint16)
        if usable.any():
            signatures[usable] = self._signed(pieces.kept(np.repeat(usable, pieces.counts)), usable)
        return signatures, usable

    def _signed(self, pieces: Pieces, usable: npt.NDArray[np.bool_]) -> Signatures:
        hashes, starts = pieces.hashes, pieces.starts[usable]
        signed = np.empty((PERMUTATIONS, len(starts)), dtype=np.uint16)
        permuted = np.empty_like(hashes)
        for number, (factor, offset) in enumerate(zip(self._factors, self._offsets, strict=True)):
            np.multiply(hashes, factor, out=permuted)
            permuted += offset
            least = np.minimum.reduceat(permuted, starts)
            # Minima are small numbers: their upper bits are nearly the same everywhere.
            least *= np.uint32(0x9E3779B1)
            signed[number] = least >> np.uint32(16)
        return signed.T


class Neighbours:
    """Collects rows, then tells which of them are near duplicates of each other.

    Rows that are equal but for case, blanks and numbers count as near duplicates too, however short they are.
    """

    def __init__(self, common: CommonPieces, near_share: float = NEAR_SHARE, *, rows: int = TEXTS_AT_ONCE) -> None:
        """`rows`: how many are expected; more are allowed."""
        self._maker = SignatureMaker(common)
        self._near_share = near_share
        self._signatures = np.empty((rows, PERMUTATIONS), dtype=np.uint16)
        self._usable = np.empty(rows, dtype=np.bool_)
        self._texts = array("q")
        self._count = 0

    def add(self, rows: Iterable[CanonicalRow]) -> None:
        """Note the next rows."""
        texts = [comparable(row) for row in rows]
        self._texts.extend(map(hash, texts))
        for first in range(0, len(texts), TEXTS_AT_ONCE):
            signatures, usable = self._maker.make(texts[first : first + TEXTS_AT_ONCE])
            self._keep(self._count, signatures, usable)
            self._count += len(usable)

    def clusters(self) -> Positions:
        """Return for each row the position of the first row of its cluster, itself if it is like no other.

        Rows are in one cluster if a chain of near duplicates leads from one to the other.
        """
        signatures, usable = self._signatures[: self._count], self._usable[: self._count].copy()
        equal = np.array(self._texts, dtype=np.int64)
        forest = _Forest(first_alike(equal[None, :]))
        # One of each set of equal texts is enough to find what is like them.
        usable &= forest.parents == np.arange(len(usable))
        for bucket in _buckets(signatures, usable):
            self._join(bucket, signatures, forest)
        return forest.roots()

    def _keep(self, first: int, signatures: Signatures, usable: npt.NDArray[np.bool_]) -> None:
        end = first + len(usable)
        if end > len(self._usable):
            room = max(end, 2 * len(self._usable))
            self._signatures = np.resize(self._signatures, (room, PERMUTATIONS))
            self._usable = np.resize(self._usable, room)
        self._signatures[first:end] = signatures
        self._usable[first:end] = usable

    def _join(self, bucket: Positions, signatures: Signatures, forest: _Forest) -> None:
        """Join the rows of a bucket that are near duplicates."""
        rest = bucket
        for _leader in range(MAX_LEADERS):
            leader, rest = int(rest[0]), rest[1:]
            rest = rest[forest.parents[rest] != forest.parents[leader]]
            if not len(rest):
                return
            near = (signatures[rest] == signatures[leader]).mean(axis=1) >= self._near_share
            for row in rest[near].tolist():
                forest.join(leader, row)
            rest = rest[~near]
            if not len(rest):
                return


class _Forest:
    """Disjoint sets; the root of a set is its first row."""

    def __init__(self, parents: Positions) -> None:
        self.parents = parents

    def root(self, row: int) -> int:
        parents = self.parents
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = int(parents[row])
        return row

    def join(self, one: int, other: int) -> None:
        first, second = sorted((self.root(one), self.root(other)))
        self.parents[second] = first

    def roots(self) -> Positions:
        parents = self.parents
        while (parents[parents] != parents).any():
            parents = parents[parents]
        return parents


def _buckets(signatures: Signatures, usable: npt.NDArray[np.bool_]) -> Iterator[Positions]:
    """Yield the rows that agree in one band of their signatures, two and more at a time."""
    rows = np.flatnonzero(usable)
    for band in range(BANDS):
        part = signatures[rows, band * ROWS_PER_BAND : (band + 1) * ROWS_PER_BAND]
        keys = np.ascontiguousarray(part).view(np.uint64).ravel()
        order = np.argsort(keys, kind="stable")
        borders = np.flatnonzero(np.concatenate(([True], np.diff(keys[order]) != 0, [True])))
        for bucket in np.flatnonzero(np.diff(borders) > 1):
            yield rows[order[borders[bucket] : borders[bucket + 1]]]


class Sample:
    """Keeps texts spread evenly over rows whose number is not known beforehand."""

    def __init__(self, size: int = SAMPLE) -> None:
        self._size = size
        self._stride = 1
        self._seen = 0
        self.texts: list[str] = []

    def add(self, rows: Iterable[CanonicalRow]) -> None:
        """Note the next rows; every second text is given up when there are twice as many as wanted."""
        for row in rows:
            if self._seen % self._stride == 0:
                self.texts.append(comparable(row))
                if len(self.texts) >= 2 * self._size:
                    self.texts = self.texts[::2]
                    self._stride *= 2
            self._seen += 1


def near_clusters(rows: Callable[[], Iterable[CanonicalRow]], near_share: float = NEAR_SHARE) -> Positions:
    """Return for each row the position of the first row of its cluster of near duplicates, itself if it has none.

    `rows` is called twice and must yield the same rows: the words of a common template are learned first.
    """
    sample = Sample()
    sample.add(rows())
    neighbours = Neighbours(CommonPieces(sample.texts), near_share)
    left = iter(rows())
    while batch := list(islice(left, TEXTS_AT_ONCE)):
        neighbours.add(batch)
    return neighbours.clusters()

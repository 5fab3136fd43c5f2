"""Rows with equal keys, found by sorting."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Positions = npt.NDArray[np.int64]


def first_alike(keys: Positions) -> Positions:
    """Return for each row the position of the first row with the same keys. Shape: (keys, rows)."""
    count = keys.shape[1]
    if not count:
        return np.zeros(0, dtype=np.int64)
    order = np.lexsort(keys[::-1])  # stable: within a group the first row stays first
    ordered = keys[:, order]
    starts = np.flatnonzero(np.r_[True, (ordered[:, 1:] != ordered[:, :-1]).any(axis=0)])
    first = np.empty(count, dtype=np.int64)
    first[order] = np.repeat(order[starts], np.diff(np.r_[starts, count]))
    return first


def groups_of(keys: Positions) -> Iterator[Positions]:
    """Yield the positions of each key that occurs twice or more, in order of the rows within a group."""
    order = np.argsort(keys, kind="stable")
    borders = np.flatnonzero(np.r_[True, np.diff(keys[order]) != 0, True])
    wide = np.flatnonzero(np.diff(borders) > 1)
    for start, stop in zip(borders[wide], borders[wide + 1], strict=True):
        yield order[start:stop]

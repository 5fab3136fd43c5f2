"""Divide rows among training, validation and test: seeded, without leaks, in the proportions of the answers.

Pure. Rows that belong together (the same question, near the same, one thread) never come into different parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from datasets_app.readers.faults import DataError
from datasets_app.readers.sentences import SPLIT_SENTENCES

Integers = npt.NDArray[np.int64]
Parts = npt.NDArray[np.int8]

SPLITS: Final = ("train", "validation", "test")
TRAIN, VALIDATION, TEST = range(3)
NO_DATE: Final = np.iinfo(np.int64).min

By = Literal["random", "time", "column"]
Together = Literal["near", "exact", "none"]
# Instead of a field's name: the closed fields that are found; or none.
AUTO: Final = "auto"
NONE: Final = "none"


class SplitRefused(DataError):
    """Rows cannot be divided as asked."""

    sentences = SPLIT_SENTENCES


@dataclass(frozen=True)
class SplitPlan:
    """How rows are to be divided.

    `by`: "random" (seeded), "time" (the newest rows become test, the next validation), "column" (as the rows say).
    `stratify`: the field whose values shall have the same shares in every part, "auto" for all closed fields, or
    "none". `together`: rows with near, exact or no repetitions of a question stay in one part; threads always do.
    `keep_test`: when a version is divided again, its test rows stay test rows.
    """

    shares: Mapping[str, float] = field(default_factory=lambda: {"train": 0.8, "validation": 0.1, "test": 0.1})
    seed: int = 1
    by: By = "random"
    stratify: str = AUTO
    together: Together = "near"
    keep_test: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready form."""
        return asdict(self) | {"shares": dict(self.shares)}


@dataclass(frozen=True)
class RowsToDivide:
    """What the division has to know of every row, in one order.

    `keys`: arrays of hashes; rows with the same one, other than 0, belong together. `moments`: seconds or NO_DATE.
    `strata`: numbers, equal for rows whose answers are. `parts`: where the rows are now, or shall be by their column.
    """

    ids: Integers
    keys: Sequence[Integers] = ()
    moments: Integers | None = None
    strata: npt.NDArray[np.int32] | None = None
    parts: Parts | None = None


@dataclass(frozen=True)
class Division:
    """The part (its place in SPLITS) of every row, and how many rows had to stay with others."""

    parts: Parts
    together: int = 0


def divide(rows: RowsToDivide, plan: SplitPlan) -> Division:
    """Return the part of every row; the same rows, plan and seed give the same parts.

    Raises: SplitRefused if the rows have no dates or parts to go by.
    """
    count = len(rows.ids)
    if plan.by == "column":
        if rows.parts is None:
            raise SplitRefused("no_split_column")
        return Division(rows.parts)
    parts = np.zeros(count, dtype=np.int8)
    clusters = _Clusters(rows, plan)
    together_rows = int(clusters.sizes[clusters.sizes > 1].sum())
    shares = {name: share for name, share in plan.shares.items() if share}
    if rows.parts is not None and plan.keep_test:
        kept = clusters.touching(rows.parts == TEST)
        parts[clusters.rows_of(kept)] = TEST
        shares.pop("test", None)
        clusters.leave_out(kept)
    if not clusters.sizes.size:
        return Division(parts, together_rows)
    if len(shares) > clusters.sizes.size:
        shares = {"train": 1.0}  # too few for every part: all of them are for training
    wanted = split_sizes(int(clusters.sizes.sum()), shares)
    chosen = _by_time(clusters, wanted) if plan.by == "time" else _in_proportion(clusters, wanted)
    _fill_empty(chosen, clusters.sizes, wanted)
    free = clusters.of_row >= 0
    parts[free] = chosen[clusters.of_row[free]]
    return Division(parts, together_rows)


class _Clusters:
    """Rows that stay together, in the order in which they are to be divided; a row alone is a cluster too."""

    def __init__(self, rows: RowsToDivide, plan: SplitPlan) -> None:
        first_of_row = together(len(rows.ids), rows.keys)
        is_first = first_of_row == np.arange(len(rows.ids), dtype=np.int32)
        firsts = np.flatnonzero(is_first)
        self.of_row = (np.cumsum(is_first, dtype=np.int32) - 1)[first_of_row]
        self.sizes = np.bincount(self.of_row, minlength=len(firsts)).astype(np.int32)
        self.moments = _latest(rows, self.of_row, len(firsts)) if plan.by == "time" else None
        keys: list[npt.NDArray[Any]] = [_chance(rows.ids[firsts], plan.seed)]
        if self.moments is not None:
            keys.append(-self.moments)
        elif rows.strata is not None:
            keys.append(rows.strata[firsts])
        self._reorder(np.lexsort(keys))

    def _reorder(self, order: Integers) -> None:
        place = np.empty(len(order), dtype=np.int32)
        place[order] = np.arange(len(order), dtype=np.int32)
        self.of_row = place[self.of_row]
        self.sizes = self.sizes[order]
        self.moments = None if self.moments is None else self.moments[order]

    def touching(self, rows: npt.NDArray[np.bool_]) -> Integers:
        """Return the clusters that have one of these rows."""
        return np.unique(self.of_row[rows])

    def rows_of(self, clusters: Integers) -> npt.NDArray[np.bool_]:
        """Return which rows are in these clusters."""
        return np.isin(self.of_row, clusters)

    def leave_out(self, clusters: Integers) -> None:
        """Forget clusters; their rows have none (-1) from then on."""
        stays = np.ones(len(self.sizes), dtype=np.bool_)
        stays[clusters] = False
        place = np.where(stays, np.cumsum(stays) - 1, -1).astype(np.int32)
        self.of_row = place[self.of_row]
        self.sizes = self.sizes[stays]
        self.moments = None if self.moments is None else self.moments[stays]


def together(count: int, keys: Sequence[Integers]) -> npt.NDArray[np.int32]:
    """Return for each of `count` rows the first row that it belongs with, directly or through others."""
    labels = np.arange(count, dtype=np.int32)
    groups = [group for group in map(shared, keys) if len(group[0])]
    is_settled = not groups
    while not is_settled:
        before = labels.copy()
        for rows, starts, sizes in groups:
            labels[rows] = np.repeat(np.minimum.reduceat(labels[rows], starts), sizes)
        labels = labels[labels]
        is_settled = np.array_equal(before, labels)
    return labels


def shared(key: Integers) -> tuple[Integers, Integers, Integers]:
    """Return the rows that have a key, other than 0, in common with others: grouped by it, each group in order.

    Result: the rows; where each group begins among them; how many each has.
    """
    ordered = np.sort(key)
    again = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    rows = np.flatnonzero(np.isin(key, again[again != 0])) if len(again) else np.zeros(0, dtype=np.int64)
    rows = rows[np.argsort(key[rows], kind="stable")]
    starts = np.flatnonzero(np.r_[True, key[rows][1:] != key[rows][:-1]]) if len(rows) else rows
    return rows, starts, np.diff(np.r_[starts, len(rows)])


def _latest(rows: RowsToDivide, of_row: npt.NDArray[np.int32], count: int) -> Integers:
    if rows.moments is None or not (rows.moments != NO_DATE).any():
        raise SplitRefused("no_dates")
    latest = np.full(count, NO_DATE, dtype=np.int64)
    np.maximum.at(latest, of_row, rows.moments)
    # The lowest number has no opposite.
    return np.maximum(latest, NO_DATE + 1)


def _chance(ids: Integers, seed: int) -> npt.NDArray[np.uint64]:
    """Return a number by chance for every id, which depends on nothing but id and seed (SplitMix64)."""
    mixed = ids.astype(np.uint64)
    mixed += np.uint64(seed * 0x9E3779B97F4A7C15 % 2**64)
    shifted = np.empty_like(mixed)
    for _round in range(2):
        mixed += np.uint64(0x9E3779B97F4A7C15)
        for places, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
            np.right_shift(mixed, np.uint64(places), out=shifted)
            mixed ^= shifted
            mixed *= np.uint64(factor)
    return mixed


def _in_proportion(clusters: _Clusters, wanted: Mapping[str, int]) -> Parts:
    """Give cluster after cluster to the part that is furthest behind its share.

    The clusters are sorted by their strata, so every run of equal ones is divided in proportion, to within one.
    """
    places = [SPLITS.index(name) for name in wanted]
    sizes = list(wanted.values())
    if len(clusters.sizes) == sum(sizes):
        return _in_turn(places, sizes)
    total = sum(sizes)
    got = [0] * len(sizes)
    seen = 0
    chosen = []
    for size in clusters.sizes.tolist():
        seen += size
        best, most, best_fits = 0, float("-inf"), False
        for number, target in enumerate(sizes):
            behind = target * seen - got[number] * total
            fits = got[number] + size <= target
            if (fits, behind) > (best_fits, most):
                best, most, best_fits = number, behind, fits
        got[best] += size
        chosen.append(places[best])
    return np.array(chosen, dtype=np.int8)


def _in_turn(places: list[int], sizes: list[int]) -> Parts:
    """Return parts of exactly these sizes, each spread evenly over the whole."""
    parts = np.repeat(np.array(places, dtype=np.int8), sizes)
    moments = np.concatenate([(np.arange(size) + 0.5) / max(size, 1) for size in sizes])
    return parts[np.argsort(moments, kind="stable")]


def _by_time(clusters: _Clusters, wanted: Mapping[str, int]) -> Parts:
    """Give the newest clusters to test and the next ones to validation; those without a date stay in training."""
    assert clusters.moments is not None
    chosen = np.full(len(clusters.sizes), TRAIN, dtype=np.int8)
    dated = clusters.moments > NO_DATE + 1
    before = np.cumsum(clusters.sizes) - clusters.sizes
    test = wanted.get("test", 0)
    chosen[dated & (before < test + wanted.get("validation", 0))] = VALIDATION
    chosen[dated & (before < test)] = TEST
    return chosen


def _fill_empty(chosen: Parts, sizes: npt.NDArray[np.int32], wanted: Mapping[str, int]) -> None:
    """Give a part that went without the smallest cluster of the part with most clusters."""
    for name, target in wanted.items():
        part = SPLITS.index(name)
        if target and not (chosen == part).any():
            counts = np.bincount(chosen, minlength=len(SPLITS))
            donors = np.flatnonzero(chosen == counts.argmax())
            if len(donors) > 1:
                chosen[donors[sizes[donors].argmin()]] = part


def split_sizes(count: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Return how many of `count` rows each part gets: by its share, rounded so that the sum is `count`.

    A part with a share gets at least one row if there are enough rows for all.
    Raises: ValueError if a share is negative or not finite, or all are zero.
    """
    total = sum(shares.values())
    if not 0 < total < float("inf") or min(shares.values()) < 0:
        raise ValueError("the shares must be numbers of at least zero, and one of them more than zero")
    exact = {name: count * share / total for name, share in shares.items()}
    sizes = {name: int(size) for name, size in exact.items()}
    by_remainder = sorted(shares, key=lambda name: sizes[name] - exact[name])
    for name in by_remainder[: count - sum(sizes.values())]:
        sizes[name] += 1
    wanted = [name for name, share in shares.items() if share > 0]
    if count >= len(wanted):
        for name in wanted:
            if sizes[name] == 0:
                sizes[max(sizes, key=lambda other: sizes[other])] -= 1
                sizes[name] = 1
    return sizes

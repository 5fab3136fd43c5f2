"""Rows that say the same: repeated, contradicting each other, or standing in two splits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from datasets_app.doctor.report import Example
from datasets_app.doctor.table import Findings, Positions, RowTable

DROP = ("exclude_found",)
DROP_OR_SPLIT = ("exclude_found", "resplit")


def find_duplicates(table: RowTable, findings: Findings) -> None:
    """Report rows that repeat question and answer of an earlier row of the same split."""
    keys = np.stack([table.splits.astype(np.int64), table.questions, table.answers])
    first = first_alike(keys)
    repeated = np.flatnonzero(first != np.arange(len(table)))
    examples = (table.example(int(one), params=table.place(int(first[one]))) for one in repeated)
    findings.add("duplicate", "warning", repeated, examples=examples, fixes=DROP)


def find_leaks(table: RowTable, findings: Findings) -> None:
    """Report rows whose question stands in a split that is kept for measuring.

    A leak is noted at the row that can go: the training row rather than the test row it gives away.
    """
    groups = list(_shared_questions(table))
    found: dict[int, int] = {}
    held_out: set[int] = set()
    for group in groups:
        top = int(table.splits[group].max())
        kept = group[table.splits[group] == top]
        held_out.update(map(int, kept))
        found |= {int(one): int(kept[0]) for one in group[table.splits[group] < top]}
    examples = (_leak(table, one, other) for one, other in sorted(found.items()))
    findings.add(
        "leak", "error", list(found), params={"held_out": len(held_out)}, examples=examples, fixes=DROP_OR_SPLIT
    )


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


def _shared_questions(table: RowTable) -> Iterator[Positions]:
    """Yield the rows of each question that stands in more than one split."""
    for group in groups_of(table.questions):
        if len(set(table.splits[group].tolist())) > 1:
            yield group


def groups_of(keys: Positions) -> Iterator[Positions]:
    """Yield the positions of each key that occurs twice or more, in order of the rows within a group."""
    order = np.argsort(keys, kind="stable")
    borders = np.flatnonzero(np.r_[True, np.diff(keys[order]) != 0, True])
    wide = np.flatnonzero(np.diff(borders) > 1)
    for start, stop in zip(borders[wide], borders[wide + 1], strict=True):
        yield order[start:stop]


def _leak(table: RowTable, position: int, other: int) -> Example:
    return table.example(position, params=table.place(other))

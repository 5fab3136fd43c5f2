"""What near duplicates mean: almost the same example twice, a label that wavers, or a leak between splits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from datasets_app.doctor.balance import Labels
from datasets_app.doctor.duplicates import DROP, report_conflicts, report_leaks
from datasets_app.doctor.groups import first_alike, groups_of
from datasets_app.doctor.table import Findings, Positions, RowTable

# In a long chain of alike rows the ends are strangers; their labels may well differ.
MAX_CONFLICTING: Final = 20


def find_near(table: RowTable, roots: Positions, labels: Labels, findings: Findings) -> None:
    """Report near duplicates, near leaks and near-equal questions with different labels.

    `roots`: for each row the first row of its cluster. What is exactly equal is reported elsewhere.
    """
    _near_duplicates(table, roots, findings)
    measured = _leaked(table)
    report_leaks("near_leak", "warning", groups_of(roots), table, findings, but=measured)
    groups = list(_wavering(table, roots))
    if labels.fields:
        report_conflicts("near_conflict", "warning", groups, table, labels, findings)


def _near_duplicates(table: RowTable, roots: Positions, findings: Findings) -> None:
    """Report all rows of a cluster but its first one within a split, and but those that repeat a question exactly."""
    rows = np.arange(len(table))
    splits = table.splits.astype(np.int64)
    first_near = first_alike(np.stack([splits, roots]))
    first_equal = first_alike(np.stack([splits, table.questions]))
    found = np.flatnonzero((first_near != rows) & (first_equal == rows))
    examples = (table.example(int(one), params=table.place(int(first_near[one]))) for one in found)
    findings.add("near_duplicate", "info", found, examples=examples, fixes=DROP)


def _leaked(table: RowTable) -> frozenset[int]:
    """Return the rows whose very question stands in a later split."""
    found: set[int] = set()
    for group in groups_of(table.questions):
        splits = table.splits[group]
        found.update(group[splits < splits.max()].tolist())
    return frozenset(found)


def _wavering(table: RowTable, roots: Positions) -> Iterator[Positions]:
    """Yield small clusters of different questions with different answers."""
    for group in groups_of(roots):
        questions, first = np.unique(table.questions[group], return_index=True)
        one_each = group[np.sort(first)]
        if 1 < len(questions) <= MAX_CONFLICTING and len(np.unique(table.answers[one_each])) > 1:
            yield one_each

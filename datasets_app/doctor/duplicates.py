"""Rows that say the same: repeated, contradicting each other, or standing in two splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np

from datasets_app.doctor.balance import ABSENT, MAX_SHOWN, Codes, Labels
from datasets_app.doctor.groups import first_alike, groups_of
from datasets_app.doctor.report import Example, Severity
from datasets_app.doctor.table import Findings, Positions, RowTable

# The side file of the rows that contradict an answer that most of the others give; the rest are ties.
UNUSUAL: Final = "conflict_unusual"
NO_ANSWER: Final = -1
DROP: Final = ("exclude_found",)
DROP_OR_SPLIT: Final = ("exclude_found", "resplit")


def find_equal(table: RowTable, labels: Labels, findings: Findings) -> None:
    """Report rows that repeat, give away or contradict another one."""
    find_duplicates(table, findings)
    find_leaks(table, findings)
    find_conflicts(table, labels, findings)


def find_duplicates(table: RowTable, findings: Findings) -> None:
    """Report rows that repeat question and answer of an earlier row of the same split."""
    keys = np.stack([table.splits.astype(np.int64), table.questions, table.answers])
    first = first_alike(keys)
    repeated = np.flatnonzero(first != np.arange(len(table)))
    examples = (table.example(int(one), params=table.place(int(first[one]))) for one in repeated)
    findings.add("duplicate", "warning", repeated, examples=examples, fixes=DROP)


def find_leaks(table: RowTable, findings: Findings) -> None:
    """Report rows whose question stands in a split that is kept for measuring."""
    report_leaks("leak", "error", groups_of(table.questions), table, findings)


def report_leaks(
    code: str,
    severity: Severity,
    groups: Iterable[Positions],
    table: RowTable,
    findings: Findings,
    but: frozenset[int] = frozenset(),
) -> None:
    """Report the rows of groups that reach over several splits, except the rows of `but`.

    A leak is noted at the row that can go: the training row rather than the test row it gives away.
    """
    found: dict[int, int] = {}
    held_out: set[int] = set()
    for group in groups:
        splits = table.splits[group]
        top = int(splits.max())
        if int(splits.min()) == top:
            continue
        kept = int(group[splits == top][0])
        mine = {int(one): kept for one in group[splits < top] if int(one) not in but}
        if mine:
            found |= mine
            held_out.update(map(int, group[splits == top]))
    examples = (table.example(one, params=table.place(other)) for one, other in sorted(found.items()))
    findings.add(
        code, severity, list(found), params={"held_out": len(held_out)}, examples=examples, fixes=DROP_OR_SPLIT
    )


def find_conflicts(table: RowTable, labels: Labels, findings: Findings) -> None:
    """Report rows that ask what others ask but are answered differently from most of them."""
    groups = [group for group in groups_of(table.questions) if len(np.unique(table.answers[group])) > 1]
    # Where answers are free text, several may be right.
    severity: Severity = "error" if labels.fields else "warning"
    report_conflicts("conflict", severity, groups, table, labels, findings)


def report_conflicts(
    code: str,
    severity: Severity,
    groups: Iterable[Positions],
    table: RowTable,
    labels: Labels,
    findings: Findings,
) -> None:
    """Report the rows of each group whose answer is not that of most; all of them if there is no such answer."""
    codes = {field: labels.codes(field) for field in labels.fields}
    examples: dict[int, Example] = {}
    tied: set[int] = set()
    per_field: Counter[str] = Counter()
    for group in groups:
        usual = _usual_answer(table.answers[group])
        for row in group[table.answers[group] != usual].tolist():
            other = int(group[table.answers[group] != table.answers[row]][0])
            fields = [field for field, numbers in codes.items() if numbers[row] != numbers[other]]
            per_field.update(fields)
            params = {**table.place(other), "fields": fields, **_answers(labels, codes, fields, row, other)}
            examples[row] = table.example(row, fields[0] if fields else "", params)
            if usual == NO_ANSWER:
                tied.add(row)
    shown = (examples[row] for row in sorted(examples))
    params = {"fields": dict(per_field), "tied": len(tied)}
    findings.add(code, severity, list(examples), params=params, examples=shown, fixes=DROP)
    if code == "conflict":
        findings.keep_ids(UNUSUAL, sorted(examples.keys() - tied))


def _usual_answer(answers: Positions) -> int:
    """Return the answer that most rows give, `NO_ANSWER` if there is none (hashes are not negative)."""
    values, counts = np.unique(answers, return_counts=True)
    most = values[counts == counts.max()]
    return int(most[0]) if len(most) == 1 else NO_ANSWER


def _answers(labels: Labels, codes: Mapping[str, Codes], fields: Sequence[str], row: int, other: int) -> dict[str, str]:
    """Return what the first of the fields is in both rows."""
    if not fields:
        return {}
    names, numbers = labels.names(fields[0]), codes[fields[0]]
    return {
        name: names[numbers[at]][:MAX_SHOWN] if numbers[at] != ABSENT else ""
        for name, at in (("label", row), ("other_label", other))
    }

"""How often each label of a closed field occurs, split by split, and which labels are too rare to be learned."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datasets_app.doctor.report import Example
from datasets_app.doctor.table import Findings, RowTable
from datasets_app.store import SPLITS

Codes = npt.NDArray[np.int32]
ABSENT: Final = -1
DOMINANT_SHARE: Final = 0.9
# A misspelt label is rare beside the right one.
SLIP_OF_LABEL: Final = 0.1
MIN_SPELLING: Final = 3
MAX_LABELS: Final = 1_000
MAX_NAMED: Final = 20
MAX_SHOWN: Final = 100
# A longer label is no label; fixes refuse it (`operations.values`).
MAX_KEPT: Final = 1_000
DROP: Final = ("exclude_found",)


class Labels:
    """The label of every closed field of every row, as a number; labels beyond the closed set are added to it."""

    def __init__(self, closed: Mapping[str, Sequence[str]]) -> None:
        self._numbers = {name: {label: n for n, label in enumerate(labels)} for name, labels in closed.items()}
        self._codes = {name: array("i") for name in closed}

    @property
    def fields(self) -> tuple[str, ...]:
        """The closed fields."""
        return tuple(self._codes)

    def add(self, labels: Sequence[str | None]) -> None:
        """Note the labels of one more row, one for each closed field, None where the answer has no such field."""
        for (name, numbers), label in zip(self._numbers.items(), labels, strict=True):
            if label is None or (label not in numbers and len(numbers) >= MAX_LABELS):
                self._codes[name].append(ABSENT)
            else:
                self._codes[name].append(numbers.setdefault(label, len(numbers)))

    def names(self, field: str) -> list[str]:
        """Return the labels of a field by their number."""
        return list(self._numbers[field])

    def codes(self, field: str) -> Codes:
        """Return the number of the label of every row, `ABSENT` where there is none."""
        return np.array(self._codes[field], dtype=np.int32)

    def counts(self, field: str, table: RowTable) -> npt.NDArray[np.int64]:
        """Return how often each label occurs. Shape: (splits, labels)."""
        codes, width = self.codes(field), len(self._numbers[field])
        return np.stack(
            [np.bincount(codes[(table.splits == n) & (codes >= 0)], minlength=width) for n in range(len(SPLITS))]
        )


def balance(table: RowTable, labels: Labels) -> dict[str, Any]:
    """Return {field: {"labels": [...], split: [counts]}} of the splits that have rows, frequent labels first."""
    counted = {}
    for field in labels.fields:
        counts = labels.counts(field, table)
        names = labels.names(field)
        order = sorted(range(len(names)), key=lambda n: (-counts[:, n].sum(), names[n]))
        per_split = {split: counts[SPLITS.index(split), order].tolist() for split in table.counts}
        counted[field] = {"labels": [kept(names[n]) for n in order], **per_split}
    return counted


def find_imbalance(table: RowTable, labels: Labels, findings: Findings, *, rare_below: int) -> None:
    """Report labels that are rare, misspelt, never measured or nearly always the same."""
    rare, misspelt = _Rows(table), _Rows(table)
    renames: list[dict[str, str]] = []
    for field in labels.fields:
        names, codes, counts = labels.names(field), labels.codes(field), labels.counts(field, table)
        slips = dict(_misspellings(names, counts.sum(axis=0)))
        for code, right in slips.items():
            params = {"label": kept(names[code]), "meant": kept(names[right])}
            renames.append({"field": field, **params})
            misspelt.add(np.flatnonzero(codes == code), field, params)
        for code in np.flatnonzero((counts[0] > 0) & (counts[0] < rare_below)).tolist():
            if code not in slips:
                few: dict[str, Any] = {"label": shown(names[code]), "rows": int(counts[0, code])}
                rare.add(np.flatnonzero((codes == code) & (table.splits == 0)), field, few)
    misspelt.report(findings, "misspelt_label", "error", params={"renames": renames})
    rare.report(findings, "rare_label", "warning", params={"limit": rare_below})
    _note_fields(table, labels, findings, rare_below)


def _note_fields(table: RowTable, labels: Labels, findings: Findings, rare_below: int) -> None:
    """Note fields that one label dominates, and labels that no held-out row asks for."""
    unmeasured, dominant = [], []
    for field in labels.fields:
        names, counts = labels.names(field), labels.counts(field, table)
        trained = counts[0]
        if counts[1:].sum():
            missing = np.flatnonzero((trained >= rare_below) & (counts[1:].sum(axis=0) == 0))
            unmeasured += [{"field": field, "label": shown(names[n])} for n in missing.tolist()]
        if trained.sum() and trained.max() > DOMINANT_SHARE * trained.sum():
            share = round(100 * float(trained.max() / trained.sum()), 1)
            dominant.append({"field": field, "label": shown(names[int(trained.argmax())]), "percent": share})
    if unmeasured:
        findings.note("unmeasured_label", "info", len(unmeasured), {"labels": unmeasured[:MAX_NAMED]})
    if dominant:
        findings.note("dominant_label", "info", len(dominant), {"fields": dominant[:MAX_NAMED]})


class _Rows:
    """Rows with a label that is to be reported, over all fields."""

    def __init__(self, table: RowTable) -> None:
        self._table = table
        self._shown: list[tuple[int, str, Mapping[str, Any]]] = []

    def add(self, positions: npt.NDArray[np.intp], field: str, params: Mapping[str, Any]) -> None:
        self._shown += [(position, field, params) for position in positions.tolist()]

    def report(self, findings: Findings, code: str, severity: Any, params: Mapping[str, Any] | None = None) -> None:
        positions = [position for position, _field, _params in self._shown]
        findings.add(code, severity, positions, params=params, examples=self._examples(), fixes=DROP)

    def _examples(self) -> Iterator[Example]:
        for position, field, params in sorted(self._shown, key=lambda one: one[0]):
            yield self._table.example(position, field, params)


def _misspellings(names: Sequence[str], counts: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield (label, the label that is meant) for rare labels that look like a frequent one."""
    frequent = sorted(range(len(names)), key=lambda n: -counts[n])
    for code, name in enumerate(names):
        for other in frequent:
            if counts[code] > SLIP_OF_LABEL * counts[other]:
                break
            if counts[code] and _look_alike(name, names[other]):
                yield code, other
                break


def _look_alike(one: str, other: str) -> bool:
    """Tell whether two labels differ in case, white space and separators only, or by one slip of the fingers."""
    plain, known = _plain(one), _plain(other)
    if plain == known:
        return True
    if min(len(plain), len(known)) < MIN_SPELLING or any(c.isdigit() for c in plain + known):
        return False
    if len(plain) == MIN_SPELLING:  # "Low" and "Lot" are two words, "Lwo" is none
        return sorted(plain) == sorted(known)
    return _one_slip_apart(plain, known)


def _plain(label: str) -> str:
    return "".join(c for c in label.casefold() if c.isalnum()) or label


def _one_slip_apart(one: str, other: str) -> bool:
    """Tell whether one letter was left out, added or replaced, or two neighbours changed places."""
    if abs(len(one) - len(other)) > 1:
        return False
    start = 0
    while start < min(len(one), len(other)) and one[start] == other[start]:
        start += 1
    rest, other_rest = one[start:], other[start:]
    swapped = rest[:2] == other_rest[1::-1] and rest[2:] == other_rest[2:]
    return swapped or rest[1:] == other_rest[1:] or rest[1:] == other_rest or rest == other_rest[1:]


def kept(label: str) -> str:
    """Return a label as reports keep it, so that fixes can write it; one that is far too long is cut and marked."""
    return label if len(label) <= MAX_KEPT else f"{label[:MAX_KEPT]}…"


def shown(label: str) -> str:
    """Return a label as people see it."""
    return label if len(label) <= MAX_SHOWN else f"{label[:MAX_SHOWN]}…"

"""Which values the fields of the answers have, row by row, without keeping the answers. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datasets_app.fields import MAX_CLOSED_VALUES, MIN_ROWS_PER_VALUE, Field, label_of
from datasets_app.readers.jsonlines import JsonFault
from datasets_app.rows import KNOWN_CHARACTERS, MAX_KNOWN, JsonAnswers

Integers = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int16]

# The name of the one field of answers that are plain text.
WHOLE_ANSWER: Final = ""
MISSING: Final = -2
OPEN: Final = -1
# Ten times the limit: distinct values come early in a file, their repetitions late.
MAX_VALUES: Final = 10 * MAX_CLOSED_VALUES
# Different combinations of values that are told apart; bounds the memory.
MAX_KINDS: Final = 100_000
# Keys that are told apart; answers that are keyed by a number or a name have a new one in every row.
MAX_COLUMNS: Final = 1_000


class _Column:
    """The values of one key, numbered in the order in which they appear, until there are too many of them."""

    def __init__(self, place: int) -> None:
        self.place = place
        self.values: dict[object, int] | None = {}

    def code(self, value: object) -> int:
        """Return the number of a value, OPEN if the values are not counted."""
        if isinstance(value, (dict, list)):
            self.values = None
        if self.values is None:
            return OPEN
        # True equals 1, but is another value.
        key = value if isinstance(value, str) else (type(value).__name__, value)
        code = self.values.setdefault(key, len(self.values))
        if code >= MAX_VALUES:
            self.values = None
            return OPEN
        return code

    def labels(self) -> list[str]:
        """Return the name of each counted value, by its number."""
        return [label_of(key if isinstance(key, str) else key[1]) for key in self.values or ()]  # type: ignore[index]

    @property
    def null(self) -> int | None:
        """The number of null, if it occurs."""
        return (self.values or {}).get(("NoneType", None))


class AnswerCounts:
    """Takes in answer after answer; afterwards tells fields and counts of any part of the rows.

    Every row is of a kind: the combination of its counted values. Only the number of its kind is kept.
    """

    def __init__(self, answers: JsonAnswers) -> None:
        self.parser = answers
        self._columns: dict[str, _Column] = {}
        self._kinds: dict[tuple[tuple[int, int], ...], int] = {(): 0}
        self._known: dict[str, int] = {}
        self._rows = array("i")

    def add(self, answer: str) -> None:
        """Take in the answer of the next row."""
        kind = self._known.get(answer)
        if kind is None:
            kind = self._kind_of(answer)
            if len(answer) <= KNOWN_CHARACTERS:
                if len(self._known) >= MAX_KNOWN:
                    self._known.clear()
                self._known[answer] = kind
        self._rows.append(kind)

    def _kind_of(self, answer: str) -> int:
        columns, codes = self._columns, []
        for name, value in self._members(answer).items():
            column = columns.get(name)
            if column is None:
                if len(columns) >= MAX_COLUMNS and name != WHOLE_ANSWER:
                    continue  # open, as keys that hardly ever repeat are
                column = columns[name] = _Column(len(columns))
            values = column.values
            code = OPEN if values is None else values.get(value) if type(value) is str else None
            codes.append((column.place, column.code(value) if code is None else code))
        key = tuple(codes)
        kind = self._kinds.get(key)
        if kind is None:
            kind = self._kinds[key] = len(self._kinds) if len(self._kinds) < MAX_KINDS else 0
        return kind

    def _members(self, answer: str) -> dict[str, object]:
        if answer.startswith("{"):
            try:
                value = self.parser.parse(answer)
            except JsonFault:
                value = None
            if isinstance(value, dict):
                return value
        return {WHOLE_ANSWER: answer if len(answer) <= KNOWN_CHARACTERS else []}

    @property
    def _kind_of_row(self) -> npt.NDArray[np.int32]:
        return np.frombuffer(self._rows, dtype=np.int32)

    @cached_property
    def _codes(self) -> Codes:
        """The value of every column (second axis) in every kind (first axis)."""
        codes = np.full((len(self._kinds), len(self._columns)), MISSING, dtype=np.int16)
        for key, kind in self._kinds.items():
            for place, code in key:
                codes[kind, place] = code
        return codes

    def _weights(self, chosen: npt.NDArray[np.bool_] | None) -> Integers:
        kinds = self._kind_of_row if chosen is None else self._kind_of_row[chosen]
        return np.bincount(kinds, minlength=len(self._kinds))

    def fields(self, chosen: npt.NDArray[np.bool_] | None = None) -> list[Field]:
        """Return the fields of the chosen rows (all by default); see `infer_fields` for what is closed.

        Plain answers count as one field named WHOLE_ANSWER.
        """
        weights = self._weights(chosen)
        objects = int(weights[self._is_object].sum())
        whole = int(weights.sum()) - objects
        found = []
        for name, column in self._columns.items():
            field = self._field(name, column, weights, whole if name == WHOLE_ANSWER else objects)
            if field is not None:
                found.append(field)
        return found

    @cached_property
    def _is_object(self) -> npt.NDArray[np.bool_]:
        whole = self._columns.get(WHOLE_ANSWER)
        if whole is None:
            return np.ones(len(self._kinds), dtype=np.bool_)
        return np.asarray(self._codes[:, whole.place] == MISSING)

    def _field(self, name: str, column: _Column, weights: Integers, of: int) -> Field | None:
        codes = self._codes[:, column.place]
        rows = int(weights[codes != MISSING].sum())
        if not rows:
            return None
        counts = self._counts(column, weights)
        nulls = int(counts[column.null]) if column.null is not None and len(counts) else 0
        distinct = int(np.count_nonzero(counts)) - (nulls > 0)
        share = rows / of
        if not 0 < distinct <= MAX_CLOSED_VALUES or rows - nulls < MIN_ROWS_PER_VALUE * distinct:
            return Field(name, closed=False, values=(), counts=(), share=share)
        ranked = sorted(
            ((int(count), label) for count, label in zip(counts, column.labels(), strict=True) if count),
            key=lambda item: (-item[0], item[1]),
        )
        return Field(
            name,
            closed=True,
            values=tuple(label for _count, label in ranked),
            counts=tuple(count for count, _label in ranked),
            share=share,
        )

    def _counts(self, column: _Column, weights: Integers) -> Integers:
        """Return how often each value of a column occurs; nothing for an open one."""
        if column.values is None:
            return np.zeros(0, dtype=np.int64)
        codes = self._codes[:, column.place]
        counted = codes >= 0
        found = np.bincount(codes[counted], weights=weights[counted], minlength=len(column.values))
        return found.astype(np.int64)

    def strata(self, names: Sequence[str]) -> npt.NDArray[np.int32]:
        """Return a number for every row; rows are equal in it exactly if they are in the values of these fields.

        Numbers in a row have the values of the first fields in common for as long as possible.
        """
        codes = self._codes[:, [self._columns[name].place for name in names]]
        order = np.lexsort(codes.T[::-1])
        changes = (codes[order][1:] != codes[order][:-1]).any(axis=1)
        rank = np.empty(len(order), dtype=np.int32)
        rank[order] = np.r_[0, np.cumsum(changes)]
        return rank[self._kind_of_row]

    def by_part(self, parts: Sequence[str], part_of_row: npt.NDArray[Any]) -> list[dict[str, object]]:
        """Return of every closed field how often each value occurs in each part: {name, values, counts {part: […]}}."""
        weights = {part: self._weights(part_of_row == place) for place, part in enumerate(parts)}
        found: list[dict[str, object]] = []
        for field in self.fields():
            if field.closed:
                column = self._columns[field.name]
                labels = column.labels()
                order = [labels.index(value) for value in field.values]
                counts = {part: self._counts(column, weights[part])[order].tolist() for part in parts}
                found.append({"name": field.name, "values": list(field.values), "counts": counts})
        return found

"""The answers: empty, over-long or damaged ones, JSON that leaves the schema, and the labels of closed fields."""

from __future__ import annotations

import dataclasses
import re
from array import array
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from datasets_app.answer_counts import WHOLE_ANSWER
from datasets_app.doctor.balance import Labels
from datasets_app.doctor.report import MAX_EXAMPLES, Example, Severity
from datasets_app.doctor.schema import Schema, SchemaTally, closed_fields, deviations
from datasets_app.doctor.table import Batch, Findings, RowTable
from datasets_app.fields import MAX_DEPTH, ValueTally, json_object, label_of
from datasets_app.readers.json_reasons import NO_OBJECT
from datasets_app.readers.jsonlines import JsonFault, parse_json

JSON_SHARE: Final = 0.5
MAX_LABEL_CHARACTERS: Final = 100
MAX_REMEMBERED: Final = 50_000
EMPTY: Final = frozenset({"", "{}", "[]", '""', "null", "nan", "n/a", "-", "–", "—", "...", "…", "?"})
# Rarer than this, an answer that says nothing is a fault; more frequent, it is an answer.
EMPTY_SHARE: Final = 0.05
LONG_FACTOR: Final = 10
LONG_CHARACTERS: Final = 500
# UTF-8 that was read as Windows-1252 or cp1251, and the sign that stands for an unreadable byte.
DAMAGED: Final = re.compile("\ufffd|Ã[\x80-\xbf€-™]|â€|[ÐÑ][\x80-\xbf€-™][ÐÑ]|(?:Р[\xa0-ÿ°-ї]С[‚ѓ„…†‡€‰])")

SEVERITIES: Final[Mapping[str, Severity]] = {
    "empty_answer": "error",
    "invalid_json": "error",
    "wrong_type": "error",
    "missing_field": "error",
    "unknown_label": "error",
    "unseen_label": "error",
    "unknown_field": "warning",
    "wrong_format": "warning",
    "key_order": "warning",
    "json_among_text": "warning",
    "long_answer": "warning",
    "damaged_text": "warning",
}
DROP: Final = ("exclude_found",)


@dataclass(frozen=True)
class Fault:
    """What is wrong with one answer."""

    code: str
    field: str = ""
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclass
class _Found:
    """The rows with one kind of fault, and the first of them as examples."""

    positions: array[int] = dataclasses.field(default_factory=lambda: array("q"))
    shown: list[tuple[int, Fault]] = dataclasses.field(default_factory=list)

    def add(self, position: int, fault: Fault) -> None:
        if not self.positions or self.positions[-1] != position:
            self.positions.append(position)
        if len(self.shown) < MAX_EXAMPLES:
            self.shown.append((position, fault))


class AnswerSurvey:
    """First reading: learns the schema, the usual length and the closed fields of the training answers."""

    def __init__(self, schema: Schema | None = None) -> None:
        self._given = schema
        self._tally = SchemaTally()
        self._plain = ValueTally()
        self._answers = 0
        self._lengths = array("l")

    def add(self, batch: Batch) -> None:
        """Note the answers of a batch."""
        for row in batch.rows:
            answer = row.answer
            self._answers += 1
            self._lengths.append(len(answer))
            value = json_object(answer)
            if value is not None:
                self._tally.add(value)
            # An answer too long for a label is noted as a list, which makes the whole an open field.
            self._plain.add(answer if len(answer) <= MAX_LABEL_CHARACTERS else [])

    def plan(self) -> AnswerPlan:
        """Return what the answers have to be checked against."""
        is_json = self._given is not None or self._tally.count > JSON_SHARE * self._answers
        schema = self._given if self._given is not None else self._tally.schema() if is_json else None
        closed: dict[str, tuple[str, ...]] = {}
        if schema is not None:
            closed = closed_fields(schema)
        elif labels := self._plain.closed_values():
            closed = {WHOLE_ANSWER: tuple(label for label, _count in labels)}
        median = float(np.median(self._lengths)) if self._lengths else 0.0
        return AnswerPlan(
            schema=schema,
            given=self._given is not None,
            closed=closed,
            long_from=int(max(LONG_CHARACTERS, LONG_FACTOR * median)) + 1,
        )


@dataclass(frozen=True)
class AnswerPlan:
    """What answers are checked against; `given` tells that a person confirmed the schema."""

    schema: Schema | None
    given: bool
    closed: Mapping[str, tuple[str, ...]]
    long_from: int


class AnswerCheck:
    """Second reading: checks every answer against the plan and notes the labels of closed fields."""

    def __init__(self, plan: AnswerPlan) -> None:
        self._plan = plan
        self._found: dict[str, _Found] = defaultdict(_Found)
        self._remembered: dict[str, tuple[tuple[Fault, ...], tuple[str | None, ...]]] = {}
        self.labels = Labels(plan.closed)

    def add(self, batch: Batch) -> None:
        """Check the answers of a batch."""
        for position, row in enumerate(batch.rows, start=batch.first):
            faults, labels = self._verdict(row.answer)
            for fault in faults:
                self._found[fault.code].add(position, fault)
            self.labels.add(labels)
            if DAMAGED.search(row.prompt):
                self._found["damaged_text"].add(position, Fault("damaged_text", params={"part": "prompt"}))

    def report(self, table: RowTable, findings: Findings) -> None:
        """Add what was found."""
        empty = self._found.get("empty_answer")
        if empty is not None and len(empty.positions) > EMPTY_SHARE * len(table):
            del self._found["empty_answer"]
        for code, severity in SEVERITIES.items():
            if code in self._found:
                found = self._found[code]
                findings.add(code, severity, found.positions, examples=_examples(table, found), fixes=DROP)

    def _verdict(self, answer: str) -> tuple[tuple[Fault, ...], tuple[str | None, ...]]:
        """Return the faults of an answer and its labels; answers come again, so verdicts are remembered."""
        known = self._remembered.get(answer)
        if known is None:
            value = json_object(answer)
            faults = tuple(self._faults(answer, value))
            known = faults, self._labels(answer, value, {one.field for one in faults if one.code == "wrong_type"})
            if len(answer) <= LONG_CHARACTERS and len(self._remembered) < MAX_REMEMBERED:
                self._remembered[answer] = known
        return known

    def _labels(
        self, answer: str, value: Mapping[str, object] | None, mistyped: Collection[str]
    ) -> tuple[str | None, ...]:
        if self._plan.schema is None:
            return (label_of(answer),) if self._plan.closed else ()
        members = {name: one for name, one in (value or {}).items() if name not in mistyped}
        return tuple(label_of(members[name]) if name in members else None for name in self._plan.closed)

    def _faults(self, answer: str, value: Mapping[str, object] | None) -> Iterator[Fault]:
        bare = answer.strip()
        if bare.casefold() in EMPTY:
            yield Fault("empty_answer")
            return
        if len(answer) >= self._plan.long_from:
            yield Fault("long_answer", params={"characters": len(answer)})
        if DAMAGED.search(answer):
            yield Fault("damaged_text", params={"part": "answer"})
        schema = self._plan.schema
        if schema is None:
            if value is not None:
                yield Fault("json_among_text")
        elif value is None:
            yield Fault("invalid_json", params={"reason": _reason(bare)})
        else:
            for one in deviations(value, schema):
                code = "unseen_label" if one.code == "unknown_label" and not self._plan.given else one.code
                yield Fault(code, one.field, one.params)


def _reason(answer: str) -> str:
    """Return why a text is not a JSON object."""
    try:
        parse_json(answer, max_depth=MAX_DEPTH)
    except JsonFault as fault:
        return fault.reason
    return NO_OBJECT


def _examples(table: RowTable, found: _Found) -> Iterator[Example]:
    for position, fault in found.shown:
        yield table.example(position, fault.field, fault.params)

"""The fields of JSON answers: which keys occur, and which of them are closed (chosen from a few values)."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Final

from datasets_app.readers.jsonlines import JsonFault, parse_json, refuse_depth

MAX_DEPTH: Final = 64
MAX_CLOSED_VALUES: Final = 100
# A value of a closed field comes back; names, numbers and addresses mostly occur once.
MIN_ROWS_PER_VALUE: Final = 2
# A text that begins otherwise is no JSON value; most labels are not, and asking the parser is dear.
JSON_BEGINNINGS: Final = frozenset('{["-0123456789tfnNI \t\r\n')


@dataclass(frozen=True)
class Field:
    """One key of the JSON answers.

    `share` is the share of JSON answers that have the key. `values` and `counts` list what a closed field may be,
    the most frequent first, as labels (see `label_of`); they are empty for an open field.
    """

    name: str
    closed: bool
    values: tuple[str, ...]
    counts: tuple[int, ...]
    share: float

    def to_dict(self) -> dict[str, object]:
        """Return a JSON-ready form."""
        return asdict(self)


def json_object(text: str) -> dict[str, object] | None:
    """Return the JSON object that an answer consists of, or None if it is anything else."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        value = parse_json(text, max_depth=MAX_DEPTH)
    except JsonFault:
        return None
    return value if isinstance(value, dict) else None


def label_of(value: object) -> str:
    """Return the name under which a JSON value is counted: a text as it is, anything else as JSON.

    A text that looks like another JSON value is put in quotes, so that "null" and null stay two things.
    """
    if not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False, sort_keys=True)
    if value[:1] not in JSON_BEGINNINGS:
        return value
    try:
        load_json(value)
    except ValueError:
        return value
    return json.dumps(value, ensure_ascii=False)


def value_of(label: str) -> object:
    """Return the JSON value that `label_of` named; what JSON does not know, such as NaN, is a text."""
    try:
        return parse_json(label, max_depth=MAX_DEPTH)
    except JsonFault:
        return label


def renamed_value(old: object, label: str) -> object:
    """Return what a value becomes when it gets another label: a text stays one, even as "404", or becomes null."""
    new = value_of(label)
    return label if isinstance(old, str) and new is not None and not isinstance(new, str) else new


def answer_of(label: str) -> str:
    """Return the answer that consists of a label alone."""
    value = value_of(label)
    return value if isinstance(value, str) else label


def load_json(text: str) -> object:
    """Return the value of a JSON text of anybody's. Raises: ValueError, for one that is nested too deeply, too."""
    try:
        value: object = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if text.count("[") + text.count("{") > MAX_DEPTH:
        refuse_depth(value, MAX_DEPTH)
    return value


def infer_fields(answers: Iterable[str]) -> tuple[Field, ...]:
    """Return the fields of the JSON answers in their order of appearance; other answers are ignored.

    Memory grows with the distinct values of closed fields only.
    """
    tallies: dict[str, ValueTally] = {}
    objects = 0
    for answer in answers:
        members = json_object(answer)
        if members is None:
            continue
        objects += 1
        for name, value in members.items():
            tallies.setdefault(name, ValueTally()).add(value)
    return tuple(tally.field(name, objects) for name, tally in tallies.items())


class ValueTally:
    """Counts the values of one key until there are too many of them to be closed."""

    def __init__(self) -> None:
        self.rows = 0
        self._nulls = 0
        self._counts: Counter[str] | None = Counter()

    def add(self, value: object) -> None:
        """Note the value of one more row."""
        self.rows += 1
        self._nulls += value is None
        if isinstance(value, (dict, list)):
            self._counts = None
        if self._counts is None:
            return
        self._counts[label_of(value)] += 1
        # Ten times the limit: distinct values come early in a file, their repetitions late.
        if len(self._counts) > 10 * MAX_CLOSED_VALUES:
            self._counts = None

    def closed_values(self) -> list[tuple[str, int]]:
        """Return (label, count) of every value, the most frequent first; nothing if the key is open.

        It is closed if it has few distinct values, all of them single values, that occur twice or more on average.
        Null does not count as a value in this, so a mostly absent name is still open.
        """
        counts = self._counts or Counter()
        distinct = len(counts) - (self._nulls > 0)
        filled = self.rows - self._nulls
        if not 0 < distinct <= MAX_CLOSED_VALUES or filled < MIN_ROWS_PER_VALUE * distinct:
            return []
        return sorted(counts.items(), key=lambda item: (-item[1], item[0]))

    def field(self, name: str, objects: int) -> Field:
        """Return what is known about the key, which so many objects could have had."""
        ranked = self.closed_values()
        return Field(
            name,
            closed=bool(ranked),
            values=tuple(label for label, _ in ranked),
            counts=tuple(count for _, count in ranked),
            share=self.rows / objects,
        )

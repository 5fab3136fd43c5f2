"""Changes of single values within the answers: rename a label everywhere, set a field of some rows, order the keys.

A field is named by its key, a label as the doctor counts it (`fields.label_of`); "" is the answer as a whole.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from django.utils.translation import gettext as _

from datasets_app.fields import answer_of, json_object, label_of, renamed_value, value_of
from datasets_app.operations.base import Context, Door, Operation, PlacedRow, Rows, Stage
from datasets_app.rows import CanonicalRow

MAX_VALUES: Final = 100_000
MAX_LABEL: Final = 1_000
MAX_KEYS: Final = 1_000
# How answers may be written, so that one that is changed stays in its style.
STYLES: Final[Sequence[dict[str, Any]]] = (
    {"ensure_ascii": False},
    {"ensure_ascii": False, "separators": (",", ":")},
    {},
    {"separators": (",", ":")},
    {"ensure_ascii": False, "indent": 2},
    {"ensure_ascii": False, "indent": 4},
    {"indent": 2},
    {"indent": 4},
)


@dataclass(frozen=True)
class RenameValue(Operation):
    """Write another label wherever a field has this one."""

    name = "rename_value"
    field: str
    label: str
    to: str

    def to_dict(self) -> dict[str, object]:
        """Return the field, its label and the new one."""
        return {"field": self.field, "from": self.label, "to": self.to}

    def apply(self, rows: Rows, context: Context) -> Iterator[PlacedRow]:
        """Yield all rows, the label renamed."""
        return rename_all([self], rows, context)

    @classmethod
    def stages(cls, operations: Sequence[RenameValue]) -> list[Stage]:
        """Return one walk for all of them."""
        return [partial(rename_all, operations)]


def rename_all(operations: Sequence[RenameValue], rows: Rows, context: Context) -> Iterator[PlacedRow]:
    """Yield all rows after renaming; every label is renamed once, so two labels may change places."""
    wanted: dict[str, dict[str, str]] = {}
    for one in operations:
        wanted.setdefault(one.field, {}).setdefault(one.label, one.to)
    for placed in rows:
        yield placed._replace(row=_renamed(placed.row, wanted))


def _renamed(row: CanonicalRow, wanted: Mapping[str, Mapping[str, str]]) -> CanonicalRow:
    answer = row.answer
    if (whole := wanted.get("", {}).get(label_of(answer))) is not None:
        return with_answer(row, answer_of(whole))
    members = json_object(answer)
    changed = {
        name: renamed_value(value, wanted[name][label_of(value)])
        for name, value in (members or {}).items()
        if label_of(value) in wanted.get(name, {})
    }
    return with_answer(row, rewritten(answer, {**(members or {}), **changed})) if changed else row


@dataclass(frozen=True)
class NewValue:
    """What a field of one row is to be."""

    id: int
    field: str
    label: str


@dataclass(frozen=True)
class SetValues(Operation):
    """Give fields of some rows another label; rows that an earlier change left out are no matter."""

    name = "set_values"
    values: tuple[NewValue, ...]

    def to_dict(self) -> dict[str, object]:
        """Return the rows with their new labels."""
        return {"values": [dataclasses.asdict(one) for one in self.values]}

    def apply(self, rows: Rows, context: Context) -> Iterator[PlacedRow]:
        """Yield all rows, these with their new labels; an answer that is not JSON has no fields and stays."""
        wanted: dict[int, dict[str, str]] = {}
        for one in self.values:
            wanted.setdefault(one.id, {})[one.field] = one.label
        for placed in rows:
            labels = wanted.get(placed.row.id)
            yield placed._replace(row=_with_labels(placed.row, labels)) if labels else placed


def _with_labels(row: CanonicalRow, labels: Mapping[str, str]) -> CanonicalRow:
    if "" in labels:
        return with_answer(row, answer_of(labels[""]))
    members = json_object(row.answer)
    if members is None:
        return row
    changed = {**members, **{name: value_of(label) for name, label in labels.items()}}
    return with_answer(row, rewritten(row.answer, changed))


@dataclass(frozen=True)
class OrderKeys(Operation):
    """Write the keys of all answers in one order; keys that it does not name come last."""

    name = "order_keys"
    keys: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        """Return the order."""
        return {"keys": list(self.keys)}

    def apply(self, rows: Rows, context: Context) -> Iterator[PlacedRow]:
        """Yield all rows; answers that are in order already stay as they are."""
        places = {name: place for place, name in enumerate(self.keys)}
        for placed in rows:
            members = json_object(placed.row.answer)
            if members is not None:
                ordered = sorted(members, key=lambda name: places.get(name, len(places)))
                if ordered != list(members):
                    answer = rewritten(placed.row.answer, {name: members[name] for name in ordered})
                    placed = placed._replace(row=with_answer(placed.row, answer))
            yield placed


def with_answer(row: CanonicalRow, answer: str) -> CanonicalRow:
    """Return the row with another answer."""
    return dataclasses.replace(row, messages=(*row.messages[:-1], {"role": "assistant", "content": answer}))


def rewritten(answer: str, members: Mapping[str, object]) -> str:
    """Return the members as JSON, written in the style of the answer that they came from."""
    before = json_object(answer)
    style = next((one for one in STYLES if json.dumps(before, **one) == answer), STYLES[0])
    return json.dumps(members, **style)


def read_rename(door: Door) -> RenameValue:
    """Return the operation from its JSON form."""
    return RenameValue(_label(door, "field"), _label(door, "from"), _new_label(door, "to"))


def read_set(door: Door) -> SetValues:
    """Return the operation from its JSON form."""
    values = door.objects("values")
    if len(values) > MAX_VALUES:
        raise door.refusal("values", _("A change may name at most %(limit)d rows.") % {"limit": MAX_VALUES})
    return SetValues(tuple(_new_value(each) for each in values))


def read_order(door: Door) -> OrderKeys:
    """Return the operation from its JSON form."""
    keys = door.value("keys")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or len(keys) > MAX_KEYS:
        raise door.refusal("keys", _("'%(name)s' must be a list of texts.") % {"name": "keys"})
    return OrderKeys(tuple(keys))


def _new_value(door: Door) -> NewValue:
    value = NewValue(door.id(), _label(door, "field"), _new_label(door, "label"))
    door.refuse_unknown()
    return value


def _label(door: Door, name: str) -> str:
    label = door.text(name)
    if len(label) > MAX_LABEL or "\0" in label or not _is_writable(label):
        raise door.refusal(
            name,
            _("'%(name)s' may have up to %(limit)d characters, and no NUL.") % {"name": name, "limit": MAX_LABEL},
        )
    return label


def _new_label(door: Door, name: str) -> str:
    label = _label(door, name)
    if not door.text("field") and not answer_of(label).strip():
        raise door.refusal(name, _("'%(name)s' must not be empty.") % {"name": name}, "empty_text")
    return label


def _is_writable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

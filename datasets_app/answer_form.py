"""A JSON answer as a form: one input for each field, closed fields with the values that they may have."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from datasets_app.fields import MAX_DEPTH, json_object, label_of, value_of
from datasets_app.readers.jsonlines import parse_json

ABSENT: Final = ""


@dataclass(frozen=True)
class Input:
    """One field of the answer: its label now, and for a closed field the labels to choose from."""

    name: str
    field: str
    label: str
    choices: tuple[str, ...]
    is_long: bool
    is_json: bool


def inputs(answer: str, fields: Sequence[Mapping[str, Any]]) -> list[Input]:
    """Return the inputs for an answer, or none if it is plain text. `fields` are those that a report knows."""
    members = json_object(answer)
    if members is None:
        return []
    known = {str(field["name"]): field for field in fields}
    names = [*members, *(name for name in known if name not in members)]
    return [_input(place, name, members, known.get(name, {})) for place, name in enumerate(names)]


def _input(place: int, name: str, members: Mapping[str, object], known: Mapping[str, Any]) -> Input:
    value = members.get(name)
    is_text = isinstance(value, str)
    choices = tuple(map(str, known.get("values", ()))) if known.get("closed") else ()
    label = ABSENT if name not in members else label_of(value) if choices or not is_text else str(value)
    if choices and label and label not in choices:
        choices = (*choices, label)
    return Input(
        name=f"field-{place}",
        field=name,
        label=label,
        choices=choices,
        is_long=len(label) > 80 or "\n" in label,
        is_json=name in members and not is_text and not choices,
    )


def written(answer: str, fields: Sequence[Mapping[str, Any]], sent: Mapping[str, str]) -> str:
    """Return the answer with what was typed into its inputs; untouched fields stay byte for byte as they were.

    Raises: ValueError, with the name of the field, for a text that should be JSON and is not.
    """
    members = dict(json_object(answer) or {})
    is_changed = False
    for one in inputs(answer, fields):
        typed = with_plain_ends(sent.get(one.name, one.label))
        if typed == with_plain_ends(one.label):
            continue
        is_changed = True
        if typed == ABSENT and (one.choices or one.is_json):
            members.pop(one.field, None)
        else:
            members[one.field] = _value(one, typed)
    return json.dumps(members, ensure_ascii=False) if is_changed else answer


def with_plain_ends(text: str) -> str:
    """Return a text with the line ends of Unix; browsers send those of Windows, whatever was there before."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _value(one: Input, typed: str) -> object:
    if one.is_json:
        try:
            return parse_json(typed, max_depth=MAX_DEPTH)
        except ValueError:
            raise ValueError(one.field) from None
    return value_of(typed) if one.choices else typed

"""The JSON schema that answers follow: inferred from them, and checked against them.

The schema is plain JSON Schema of a few words (`type`, `enum`, `format`, `properties`, `required`,
`additionalProperties`, `items`), so that it can also bind the model while it writes. The order of `properties` is the
order of the keys in the answers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from datasets_app.fields import ValueTally, label_of, value_of

Schema = Mapping[str, Any]

# What fewer than one answer in 200 does, or a single one among 20 and more, is a slip and not a rule.
SLIP_SHARE: Final = 0.005
MIN_FOR_SLIP: Final = 20
MAX_KEYS: Final = 200
_TYPES: Final[Mapping[type, str]] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    type(None): "null",
    dict: "object",
    list: "array",
}
TYPE_ORDER: Final = ("string", "integer", "number", "boolean", "object", "array", "null")

FORMATS: Final[Mapping[str, Callable[[str], object]]] = {
    "date": re.compile(r"\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])").fullmatch,
    "date-time": re.compile(
        r"\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])[Tt ]\d\d:\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-]\d\d:\d\d)"
    ).fullmatch,
    "email": re.compile(r"[^@\s]+@[^@\s.]+(?:\.[^@\s.]+)+").fullmatch,
    "uri": re.compile(r"https?://\S+").fullmatch,
    "uuid": re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}").fullmatch,
}


@dataclass(frozen=True)
class Deviation:
    """Where an answer leaves the schema: `code`, the path of the field, and what is wrong there."""

    code: str
    field: str
    params: Mapping[str, Any]


def type_of(value: object) -> str:
    """Return the JSON type of a value."""
    return _TYPES[type(value)]


class SchemaTally:
    """Counts what JSON values look like; memory grows with keys and distinct values of closed fields only."""

    def __init__(self) -> None:
        self.count = 0
        self._types: Counter[str] = Counter()
        self._values = ValueTally()
        self._misfits = dict.fromkeys(FORMATS, 0)
        self._members: dict[str, SchemaTally] = {}
        self._places: Counter[str] = Counter()
        self._is_map = False
        self._items: SchemaTally | None = None

    def add(self, value: object) -> None:
        """Note one more value."""
        self.count += 1
        kind = type_of(value)
        self._types[kind] += 1
        if isinstance(value, dict):
            self._add_members(value)
        elif isinstance(value, list):
            self._items = self._items or SchemaTally()
            for item in value:
                self._items.add(item)
        else:
            self._values.add(value)
            if isinstance(value, str) and self._misfits:
                self._try_formats(value)

    def _try_formats(self, text: str) -> None:
        for name in list(self._misfits):
            if not FORMATS[name](text):
                self._misfits[name] += 1
                if self._misfits[name] > 10 + self.count * SLIP_SHARE:
                    del self._misfits[name]

    def _add_members(self, members: Mapping[str, object]) -> None:
        for place, (name, value) in enumerate(members.items()):
            member = self._members.get(name)
            if member is None:
                if len(self._members) >= MAX_KEYS:
                    self._is_map = True  # keys are data here, such as ids; there is no list of them to learn
                    continue
                member = self._members[name] = SchemaTally()
            member.add(value)
            self._places[name] += place

    def schema(self) -> dict[str, Any]:
        """Return the schema that all values follow but for slips."""
        types = self._frequent_types()
        inferred: dict[str, Any] = {"type": types[0] if len(types) == 1 else types}
        scalars = not {"object", "array"} & set(types)
        if scalars and (values := self._enum(types)):
            return inferred | {"enum": values}
        if set(types) <= {"string", "null"} and (name := self._format()):
            inferred["format"] = name
        if "object" in types:
            inferred |= self._object()
        if "array" in types and self._items is not None and self._items.count:
            inferred["items"] = self._items.schema()
        return inferred

    def _frequent_types(self) -> list[str]:
        slip = slips_of(self.count)
        found = {kind for kind, count in self._types.items() if count > slip} or set(self._types)
        if {"integer", "number"} <= set(self._types) and found & {"integer", "number"}:
            found = (found - {"integer"}) | {"number"}
        return [kind for kind in TYPE_ORDER if kind in found]

    def _enum(self, types: list[str]) -> list[object]:
        if not set(types) - {"boolean", "null"}:
            return []  # the type says it all
        values = [value_of(label) for label, _count in self._values.closed_values()]
        allowed = set(types) | ({"integer"} if "number" in types else set())
        return [value for value in values if type_of(value) in allowed]

    def _format(self) -> str:
        strings = self._types["string"]
        slip = slips_of(strings)
        return next((name for name, misfits in self._misfits.items() if misfits <= slip and misfits < strings), "")

    def _object(self) -> dict[str, Any]:
        objects = self._types["object"]
        if self._is_map:
            return {"additionalProperties": True}
        slip = slips_of(objects)
        known = [name for name, member in self._members.items() if member.count > slip]
        # The mean place among the keys; names that are often absent still find theirs.
        known.sort(key=lambda name: self._places[name] / self._members[name].count)
        return {
            "properties": {name: self._members[name].schema() for name in known},
            "required": [name for name in known if objects - self._members[name].count <= slip],
            "additionalProperties": False,
        }


def slips_of(count: int) -> int:
    """Return how many of so many answers may do something without making it a rule."""
    return 0 if count < MIN_FOR_SLIP else max(1, int(count * SLIP_SHARE))


def deviations(value: object, schema: Schema, path: str = "") -> Iterator[Deviation]:
    """Yield where a JSON value leaves a schema. Paths are written like `customer.name` and `tags[]`."""
    kind = type_of(value)
    wanted = schema.get("type", kind)
    types = [wanted] if isinstance(wanted, str) else list(wanted)
    if kind not in types and not (kind == "integer" and "number" in types):
        yield Deviation("wrong_type", path, {"expected": ", ".join(types), "found": kind})
        return
    if "enum" in schema and not any(value == one and type_of(one) == kind for one in schema["enum"]):
        yield Deviation("unknown_label", path, {"label": label_of(value)[:200]})
    if isinstance(value, dict) and "properties" in schema:
        yield from _members(value, schema, path)
    if isinstance(value, list) and "items" in schema:
        for item in value:
            yield from deviations(item, schema["items"], f"{path}[]")
    if isinstance(value, str) and (fits := FORMATS.get(schema.get("format", ""))) and not fits(value):
        yield Deviation("wrong_format", path, {"expected": schema["format"]})


def _members(members: Mapping[str, object], schema: Schema, path: str) -> Iterator[Deviation]:
    properties: Mapping[str, Schema] = schema["properties"]
    prefix = f"{path}." if path else ""
    for name in schema.get("required", ()):
        if name not in members:
            yield Deviation("missing_field", prefix + name, {})
    for name, value in members.items():
        if name in properties:
            yield from deviations(value, properties[name], prefix + name)
        elif schema.get("additionalProperties", True) is False:
            yield Deviation("unknown_field", (prefix + name)[:200], {})
    found = [name for name in members if name in properties]
    order = [name for name in properties if name in members]
    if found != order:
        yield Deviation("key_order", path, {"expected": ", ".join(order)[:200]})


def closed_fields(schema: Schema) -> dict[str, tuple[str, ...]]:
    """Return the labels of every field of the answer itself that is answered from a closed set, in schema order."""
    closed: dict[str, tuple[str, ...]] = {}
    for name, one in schema.get("properties", {}).items():
        if "enum" in one:
            closed[name] = tuple(label_of(value) for value in one["enum"])
        elif one.get("type") in ("boolean", ["boolean", "null"]):
            closed[name] = ("true", "false") + (("null",) if one["type"] != "boolean" else ())
    return closed

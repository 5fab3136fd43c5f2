"""Kinds of answers that datasets have, a thousand rows of most, and the schema of each; the same ones at every run."""

import random
from typing import Any

TEXT = {"type": "string"}
FLAG = {"type": "boolean"}


def thing(properties: dict[str, Any], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the schema of an object with these properties and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


def closed(*values: object, types: str | list[str] = "string") -> dict[str, Any]:
    """Return the schema of a field with these values."""
    return {"type": types, "enum": list(values)}


def drawn(seed: int, *weighted: tuple[Any, int]) -> list[Any]:
    """Return the values, each as often as its weight says, in random order."""
    values = [value for value, weight in weighted for _ in range(weight)]
    random.Random(seed).shuffle(values)  # noqa: S311 -- the same every time
    return values


QUEUES = drawn(1, ("IT", 500), ("HR", 300), ("Post", 200))
URGENCIES = drawn(2, ("Low", 600), ("High", 400))
NAMES = [f"user{n}@example.com" for n in range(1000)]
FREE = [f"note {n}" for n in range(1000)]
SEVERAL = [{"queue": q, "urgency": u} for q, u in zip(QUEUES, URGENCIES, strict=True)]
QUEUE = closed("IT", "HR", "Post")
URGENCY = closed("Low", "High")

EXAMPLES: dict[str, tuple[list[Any], Any]] = {
    "one closed field": ([{"queue": q} for q in QUEUES], thing({"queue": QUEUE})),
    "two closed fields": (SEVERAL, thing({"queue": QUEUE, "urgency": URGENCY})),
    "open text": ([{"note": n} for n in FREE], thing({"note": TEXT})),
    "key order": ([{"z": q, "a": n} for q, n in zip(QUEUES, FREE, strict=True)], thing({"z": QUEUE, "a": TEXT})),
    "nullable text": (
        [{"note": n if i % 3 else None} for i, n in enumerate(FREE)],
        thing({"note": {"type": ["string", "null"]}}),
    ),
    "nullable closed field": (
        [{"queue": q} for q in drawn(3, ("IT", 500), ("HR", 300), (None, 200))],
        thing({"queue": closed("IT", "HR", None, types=["string", "null"])}),
    ),
    "optional field": (
        [{"queue": q} | ({"note": FREE[i]} if i % 4 == 0 else {}) for i, q in enumerate(QUEUES)],
        thing({"queue": QUEUE, "note": TEXT}, optional=("note",)),
    ),
    "optional field stands first": (
        [({"note": FREE[i]} if i % 4 == 0 else {}) | {"queue": q} for i, q in enumerate(QUEUES)],
        thing({"note": TEXT, "queue": QUEUE}, optional=("note",)),
    ),
    "flag": ([{"spam": i % 7 == 0} for i in range(1000)], thing({"spam": FLAG})),
    "nullable flag": (
        [{"spam": v} for v in drawn(4, (True, 5), (False, 900), (None, 95))],
        thing({"spam": {"type": ["boolean", "null"]}}),
    ),
    "whole numbers": ([{"minutes": i * 7} for i in range(1000)], thing({"minutes": {"type": "integer"}})),
    "fractions": (
        [{"amount": i / 3 if i % 3 else i // 3} for i in range(1000)],
        thing({"amount": {"type": "number"}}),
    ),
    "grades": (
        [{"grade": g} for g in drawn(5, (1, 500), (2, 300), (3, 200))],
        thing({"grade": closed(1, 2, 3, types="integer")}),
    ),
    "mixed types": (
        [{"id": i if i % 2 else f"x{i}"} for i in range(1000)],
        thing({"id": {"type": ["string", "integer"]}}),
    ),
    "e-mail": ([{"who": n} for n in NAMES], thing({"who": {"type": "string", "format": "email"}})),
    "date": (
        [{"due": f"20{i // 336:02d}-{i // 28 % 12 + 1:02d}-{i % 28 + 1:02d}"} for i in range(1000)],
        thing({"due": {"type": "string", "format": "date"}}),
    ),
    "nested object": (
        [{"who": {"name": n, "team": q}} for n, q in zip(FREE, QUEUES, strict=True)],
        thing({"who": thing({"name": TEXT, "team": QUEUE})}),
    ),
    "list of closed tags": (
        [{"tags": [q, u]} for q, u in zip(QUEUES, URGENCIES, strict=True)],
        thing({"tags": {"type": "array", "items": closed("Low", "IT", "High", "HR", "Post")}}),
    ),
    "empty lists": ([{"tags": []} for _ in range(30)], thing({"tags": {"type": "array"}})),
    "slips are no rules": (
        [*SEVERAL[:995], {"queue": 7, "urgency": "Low"}, {"queue": "IT"}, {"queue": "HR", "urgency": "Low", "x": 1},
         {"queue": "IT", "urgency": None}, {"queue": "IT", "urgency": "Low"}],
        thing({"queue": QUEUE, "urgency": URGENCY}),
    ),
    "keys that are data": ([{f"user{n}": n} for n in range(300)], {"type": "object", "additionalProperties": True}),
}  # fmt: skip

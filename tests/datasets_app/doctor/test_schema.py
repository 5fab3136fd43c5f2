"""The schema inferred from 20 kinds of answers is the expected one, and what leaves it is found."""

import json
import random

import pytest

from datasets_app.doctor.schema import SchemaTally, closed_fields, deviations

TEXT = {"type": "string"}
FLAG = {"type": "boolean"}


def thing(properties: dict, optional: tuple[str, ...] = ()) -> dict:
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


def closed(*values: object, types: str | list[str] = "string") -> dict:
    return {"type": types, "enum": list(values)}


def drawn(seed: int, *weighted: tuple[object, int]) -> list[object]:
    """Return the values, each as often as its weight says, in random order."""
    values = [value for value, weight in weighted for _ in range(weight)]
    random.Random(seed).shuffle(values)
    return values


QUEUES = drawn(1, ("IT", 500), ("HR", 300), ("Post", 200))
URGENCIES = drawn(2, ("Low", 600), ("High", 400))
NAMES = [f"user{n}@example.com" for n in range(1000)]
FREE = [f"note {n}" for n in range(1000)]
SEVERAL = [{"queue": q, "urgency": u} for q, u in zip(QUEUES, URGENCIES, strict=True)]
QUEUE = closed("IT", "HR", "Post")
URGENCY = closed("Low", "High")

FIXTURES = {
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
        None,
    ),
    "keys that are data": ([{f"user{n}": n} for n in range(300)], {"type": "object", "additionalProperties": True}),
}  # fmt: skip
FIXTURES["slips are no rules"] = (FIXTURES["slips are no rules"][0], thing({"queue": QUEUE, "urgency": URGENCY}))


@pytest.mark.parametrize("name", FIXTURES)
def test_inferred_schema(name):
    answers, expected = FIXTURES[name]
    tally = SchemaTally()
    for answer in answers:
        tally.add(json.loads(json.dumps(answer)))
    schema = tally.schema()
    assert schema == expected
    assert list(schema.get("properties", ())) == list(expected.get("properties", ()))


@pytest.mark.parametrize("name", [name for name in FIXTURES if name != "slips are no rules"])
def test_answers_follow_their_own_schema(name):
    answers, schema = FIXTURES[name]
    assert [one for answer in answers for one in deviations(answer, schema)] == []


@pytest.mark.parametrize(
    ("answer", "code", "field"),
    [
        ({"queue": "IT"}, "missing_field", "urgency"),
        ({"queue": "IT", "urgency": "Low", "x": 1}, "unknown_field", "x"),
        ({"queue": "IT", "urgency": "low"}, "unknown_label", "urgency"),
        ({"queue": "IT", "urgency": None}, "wrong_type", "urgency"),
        ({"queue": ["IT"], "urgency": "Low"}, "wrong_type", "queue"),
        ({"urgency": "Low", "queue": "IT"}, "key_order", ""),
        ({"queue": True, "urgency": "Low"}, "wrong_type", "queue"),
    ],
)
def test_deviation(answer, code, field):
    schema = thing({"queue": QUEUE, "urgency": URGENCY})
    assert [(one.code, one.field) for one in deviations(answer, schema)] == [(code, field)]


def test_deviations_have_paths_and_true_is_not_one():
    schema = thing({"who": thing({"tags": {"type": "array", "items": closed(1, 2, types="integer")}})})
    assert [one.field for one in deviations({"who": {"tags": [1, 3]}}, schema)] == ["who.tags[]"]
    assert [one.code for one in deviations({"who": {"tags": [True]}}, schema)] == ["wrong_type"]
    dated = {"type": "string", "format": "date"}
    assert [one.code for one in deviations("2024-13-01", dated)] == ["wrong_format"]


def test_closed_fields_are_those_of_the_answer_itself():
    schema = thing({"queue": QUEUE, "spam": FLAG, "note": TEXT, "who": thing({"team": QUEUE})})
    assert closed_fields(schema) == {"queue": ("IT", "HR", "Post"), "spam": ("true", "false")}

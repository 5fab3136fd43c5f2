"""The schema inferred from 20 kinds of answers is the expected one, and what leaves it is found."""

import json

import pytest

from datasets_app.doctor.schema import SchemaTally, closed_fields, deviations
from gpu_worker.benchmarks.answer_examples import EXAMPLES, FLAG, QUEUE, TEXT, URGENCY, closed, thing


@pytest.mark.parametrize("name", EXAMPLES)
def test_inferred_schema(name):
    answers, expected = EXAMPLES[name]
    tally = SchemaTally()
    for answer in answers:
        tally.add(json.loads(json.dumps(answer)))
    schema = tally.schema()
    assert schema == expected
    assert list(schema.get("properties", ())) == list(expected.get("properties", ()))


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name != "slips are no rules"])
def test_answers_follow_their_own_schema(name):
    answers, schema = EXAMPLES[name]
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

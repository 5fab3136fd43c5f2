"""Fifty outputs with known faults: valid JSON, within the schema, exact; as they were made, and as jsonschema says."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

import pytest
from jsonschema import Draft202012Validator

from experiments.scoring import AnsweredRow, row_score, score_answers

QUEUES, URGENCIES = ("Access", "Billing", "Network"), ("High", "Low")
SCHEMA = {
    "type": "object",
    "properties": {
        "queue": {"type": "string", "enum": list(QUEUES)},
        "urgency": {"type": "string", "enum": list(URGENCIES)},
        "user_id": {"type": ["string", "null"]},
    },
    "required": ["queue", "urgency", "user_id"],
    "additionalProperties": False,
}
Answer = dict[str, object]


def other_queue(right: Answer) -> str:
    return QUEUES[(QUEUES.index(str(right["queue"])) + 1) % len(QUEUES)]


# fault → the output, whether it is JSON, whether it follows the schema, whether it is the expected answer
FAULTS: dict[str, tuple[Callable[[Answer], str], bool, bool, bool]] = {
    "none": (json.dumps, True, True, True),
    "other spacing": (lambda right: json.dumps(right, indent=2), True, True, True),
    "wrong queue": (lambda right: json.dumps(right | {"queue": other_queue(right)}), True, True, False),
    "unknown queue": (lambda right: json.dumps(right | {"queue": "Plumbing"}), True, False, False),
    "missing field": (lambda right: json.dumps({k: right[k] for k in ("queue", "urgency")}), True, False, False),
    "surplus field": (lambda right: json.dumps(right | {"note": "because"}), True, False, False),
    "wrong type": (lambda right: json.dumps(right | {"user_id": 17}), True, False, False),
    "a list": (lambda right: json.dumps([right]), True, False, False),
    "cut off": (lambda right: json.dumps(right)[:-9], False, False, False),
    "words around it": (lambda right: f"Sure! {json.dumps(right)}", False, False, False),
}


def outputs() -> list[tuple[str, Answer, str]]:
    """(fault, expected answer, output): every fault five times, in an order and with values by chance."""
    dice = random.Random(62)
    faults = [name for name in FAULTS for _ in range(5)]
    dice.shuffle(faults)
    found = []
    for number, fault in enumerate(faults):
        user = dice.choice([None, f"user{number}@example.com"])
        right: Answer = {"queue": dice.choice(QUEUES), "urgency": dice.choice(URGENCIES), "user_id": user}
        found.append((fault, right, FAULTS[fault][0](right)))
    return found


@pytest.fixture(scope="module")
def report():
    rows = [AnsweredRow(n, json.dumps(right), tuned=said) for n, (_fault, right, said) in enumerate(outputs())]
    return score_answers(rows, schema=SCHEMA).tuned


def test_shares_are_those_that_were_planted(report):
    planted = [FAULTS[fault] for fault, _right, _said in outputs()]
    assert report.rows == len(planted) == 50
    assert report.json_valid == sum(one[1] for one in planted) / 50 == 0.8
    assert report.schema_valid == sum(one[2] for one in planted) / 50 == 0.3
    assert report.exact_match == sum(one[3] for one in planted) / 50 == 0.2


def test_shares_are_those_of_json_and_jsonschema(report):
    validator = Draft202012Validator(SCHEMA)
    read = []
    for _fault, _right, said in outputs():
        try:
            read.append(json.loads(said))
        except ValueError:
            continue
    assert report.json_valid == len(read) / 50
    assert report.schema_valid == sum(validator.is_valid(one) for one in read) / 50


@pytest.mark.parametrize("fault", FAULTS)
def test_each_output_is_scored_for_what_it_is(fault):
    _make, valid, within, exact = FAULTS[fault]
    for right, said in ((right, said) for name, right, said in outputs() if name == fault):
        score = row_score(json.dumps(right), said)
        alone = score_answers([AnsweredRow(1, json.dumps(right), tuned=said)], schema=SCHEMA).tuned
        assert (score.valid_json, score.exact) == (valid, exact)
        assert (alone.json_valid, alone.schema_valid, alone.exact_match) == (valid, within, exact)

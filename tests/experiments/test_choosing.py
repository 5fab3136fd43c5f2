"""Fields decided one after the other: what is scored where, what follows from what, and what is left to an answer."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets_app.fields import value_of
from experiments.scoring.choosing import BEAMS, ClosedFields, Walk

QUEUES = ("vpn", "mail", "printers")


def schema(required: tuple[str, ...] = ("queue", "urgent"), **fields: dict) -> dict:
    return {"type": "object", "properties": fields, "required": list(required)}


CLOSED = schema(queue={"type": "string", "enum": list(QUEUES)}, urgent={"type": "boolean"})


class Judge:
    """Finds values as likely as `shares` says, by what stands before them, and notes what was asked."""

    def __init__(self, **shares: dict[str, float]) -> None:
        self.shares = shares
        self.asked: list[tuple[str, tuple[str, ...], str]] = []

    def __call__(self, beginning: str, values, ending: str) -> list[float]:
        self.asked.append((beginning, tuple(values), ending))
        key = next((key for key in self.shares if f'"{key}"' in beginning), "")
        shares = [self.shares.get(key, {}).get(value, 1.0) for value in values]
        return [math.log(share / sum(shares)) for share in shares]


def shares_of(spread) -> dict[str, float]:
    return {label: math.exp(one) for label, one in spread.items()}


def test_a_later_field_counts_whatever_the_earlier_ones_say():
    """Urgent is sure only behind a vpn, which has half of the mass: 0.5 · 0.9 + 0.5 · 0.1."""
    judge = Judge(
        vpn={"true": 9, "false": 1}, mail={"true": 1, "false": 9}, printers={"true": 1, "false": 9},
        queue={'"vpn"': 2, '"mail"': 1, '"printers"': 1},
    )  # fmt: skip
    walk = Walk(ClosedFields(CLOSED), judge)
    assert shares_of(walk.of("urgent")) == pytest.approx({"true": 0.5, "false": 0.5})
    assert shares_of(walk.of("queue")) == pytest.approx({"vpn": 0.5, "mail": 0.25, "printers": 0.25})
    assert judge.asked[0] == ('{"queue": ', ('"vpn"', '"mail"', '"printers"'), ', "')
    assert judge.asked[1] == ('{"queue": "vpn", "urgent": ', ("true", "false"), "}")
    assert len(judge.asked) == 1 + BEAMS
    chosen = walk.answer()
    assert json.loads(chosen.text) == {"queue": "vpn", "urgent": True}
    assert len(judge.asked) == 1 + BEAMS, "nothing is asked twice"


@given(seed=st.integers(0, 10**6), sharpness=st.floats(0.0, 6.0))
def test_an_answer_that_is_likelier_than_all_others_together_is_chosen_field_by_field(seed, sharpness):
    """So decisions say what is written, value by value, wherever a model is more sure than not of one whole answer."""

    def score(beginning: str, values: Sequence[str], ending: str) -> list[float]:
        chance = random.Random(f"{seed} {beginning}")
        weights = [math.exp(sharpness * chance.gauss(0, 1)) for _value in values]
        return [math.log(weight / sum(weights)) for weight in weights]

    kinds = {"queue": {"enum": list(QUEUES)}, "urgent": {"type": "boolean"}, "level": {"enum": ["a", "b", "c", "d"]}}
    fields = ClosedFields(schema(tuple(kinds), **kinds))
    written, whole = "{", 1.0
    for name, labels in fields.labels.items():
        values = [json.dumps(value_of(label)) for label in labels]
        logprobs = score(f'{written}"{name}": ', values, "")
        best = max(range(len(values)), key=logprobs.__getitem__)
        written, whole = f'{written}"{name}": {values[best]}, ', whole * math.exp(logprobs[best])
    if whole > 0.5:
        assert json.loads(Walk(fields, score).answer().text) == json.loads(written.rstrip(", ") + "}")


def test_unlikely_beginnings_are_not_followed():
    judge = Judge(queue={'"vpn"': 100, '"mail"': 1, '"printers"': 1})
    Walk(ClosedFields(CLOSED), judge).of("urgent")
    assert [beginning for beginning, _values, _ending in judge.asked] == ['{"queue": ', '{"queue": "vpn", "urgent": ']


def test_a_field_is_asked_for_alone_and_others_are_none():
    judge = Judge()
    walk = Walk(ClosedFields(CLOSED), judge)
    assert walk.of("queue")
    assert len(judge.asked) == 1
    assert walk.of("nobody") is None
    assert walk.of("type") is None


@pytest.mark.parametrize("asked", [["queue"], ["urgent"], ["tone", "queue"], ["size", "urgent"], []])
def test_how_often_a_field_is_scored_at_most_is_known_before(asked):
    sizes = {"enum": ["s", "m", "l", "xl"]}
    fields = ClosedFields(
        schema(
            ("kind", "urgent", "note", "queue", "tone", "size"),
            kind={"enum": ["ticket"]}, urgent={"type": "boolean"}, note={"type": "string"},
            queue={"enum": list(QUEUES)}, tone={"enum": ["calm", "angry"]}, size=sizes,
        )
    )  # fmt: skip
    expected = {"urgent": 1, "queue": 2, "tone": BEAMS, "size": BEAMS}
    last = max((list(expected).index(name) for name in asked), default=-1)
    most = fields.most_followed(asked)
    assert most == dict(list(expected.items())[: last + 1])
    firsts = {"true": 100, '"vpn"': 100, '"calm"': 100, '"s"': 100}
    undecided, sure = Judge(), Judge(urgent=firsts)
    for judge in (undecided, sure):
        walk = Walk(fields, judge, '{"note": "x"}')
        for name in asked:
            walk.of(name)
    times = Counter(beginning.rsplit('"', 2)[1] for beginning, _values, _ending in undecided.asked)
    assert times == most
    assert len(sure.asked) == len(most), "where it is sure one answer is followed"


def test_open_fields_are_taken_from_an_answer():
    fields = ClosedFields(
        schema(
            ("note", "queue", "tags"),
            note={"type": "string"}, queue={"enum": list(QUEUES)}, tags={"type": "array"}, more={"enum": ["x"]},
        )
    )  # fmt: skip
    judge = Judge(queue={'"mail"': 8})
    walk = Walk(fields, judge, '{"tags": [1], "note": "Zeile „1“", "unknown": 1}')
    assert walk.answer().text == '{"note": "Zeile „1“", "queue": "mail", "tags": [1]}'
    assert judge.asked == [('{"note": "Zeile „1“", "queue": ', tuple(f'"{one}"' for one in QUEUES), ', "')]
    assert Walk(fields, judge, '{"note": "cut o').answer().text == '{"queue": "mail"}'
    assert judge.asked[-1][2] == ', "', "a field that every answer has comes behind it, though this one was cut"


def test_a_value_alone_is_certain_and_not_asked_for():
    judge = Judge()
    fields = ClosedFields(schema(("kind", "queue"), kind={"enum": ["ticket"]}, queue={"enum": list(QUEUES)}))
    walk = Walk(fields, judge)
    assert shares_of(walk.of("kind")) == {"ticket": 1.0}
    walk.of("queue")
    assert judge.asked[0][0] == '{"kind": "ticket", "queue": '


def test_hundreds_of_fields_that_nothing_is_known_of_can_be_told():
    names = tuple(f"f{number}" for number in range(800))
    fields = ClosedFields(schema(names, **{name: {"enum": list(QUEUES)} for name in names}))
    spread = Walk(fields, Judge()).of(names[-1])
    assert shares_of(spread) == pytest.approx(dict.fromkeys(QUEUES, 1 / 3))


@pytest.mark.parametrize(
    ("names", "required", "needs"),
    [
        (("queue", "urgent"), ("queue", "urgent"), set()),
        (("queue", "note"), ("queue", "note"), set()),
        (("queue", "note"), ("queue",), {"queue"}),  # whether something follows is not known
        (("note", "queue"), ("note", "queue"), {"queue"}),
        (("note", "queue"), ("queue",), {"queue"}),
        (("queue", "note", "urgent"), ("queue", "note", "urgent"), {"urgent"}),
    ],
)
def test_when_an_answer_has_to_be_written_first(names, required, needs):
    kinds = {"queue": {"enum": list(QUEUES)}, "urgent": {"type": "boolean"}, "note": {"type": "string"}}
    fields = ClosedFields(schema(required, **{name: kinds[name] for name in names}))
    assert {name for name in fields.labels if fields.needs_answer(name)} == needs


def test_temperatures_fit_the_same_fields_only():
    fields = ClosedFields(CLOSED)
    assert fields.are_as(ClosedFields(json.loads(json.dumps(CLOSED))))
    turned = {**CLOSED, "properties": dict(reversed(CLOSED["properties"].items()))}
    assert not fields.are_as(ClosedFields(turned))
    fewer = schema(queue={"enum": ["vpn"]}, urgent={"type": "boolean"})
    assert not fields.are_as(ClosedFields(fewer))
    assert not fields.are_as(ClosedFields({}))

"""JSON answers as forms, and texts before and after: exact in both directions."""

from __future__ import annotations

import json

import pytest
from django.http import QueryDict
from hypothesis import given
from hypothesis import strategies as st

from datasets_app.answer_form import inputs, written
from datasets_app.fields import label_of, value_of
from datasets_app.stored_rows import pretty_answer
from datasets_app.text_diff import pieces
from datasets_app.views.rows import asked_query

FIELDS = [
    {"name": "service", "closed": True, "values": ["VPN", "Mail", "null", '"null"', "3"]},
    {"name": "note", "closed": False, "values": []},
]
ALPHABET = st.text('aé"\\n{}:,1 null', max_size=6)
scalars = st.none() | st.booleans() | st.integers(-(10**6), 10**6) | ALPHABET


def sent_as(answer: str) -> dict[str, str]:
    return {one.name: one.label for one in inputs(answer, FIELDS)}


@given(st.dictionaries(ALPHABET, scalars | st.lists(scalars, max_size=3), max_size=4))
def test_an_untouched_form_changes_nothing(members):
    answer = json.dumps(members, ensure_ascii=False, indent=1)
    assert written(answer, FIELDS, sent_as(answer)) == answer


@given(scalars)
def test_labels_lead_back_to_their_values(value):
    back = value_of(label_of(value))
    assert (back, type(back)) == (value, type(value))


@pytest.mark.parametrize(
    ("answer", "typed", "expected"),
    [
        ('{"service": "VPN"}', {"field-0": "Mail"}, {"service": "Mail"}),
        ('{"service": "VPN"}', {"field-0": "null"}, {"service": None}),
        ('{"service": "VPN"}', {"field-0": '"null"'}, {"service": "null"}),
        ('{"service": "VPN"}', {"field-0": "3"}, {"service": 3}),
        ('{"service": "VPN", "note": "x"}', {"field-0": ""}, {"note": "x"}),
        ('{"note": "x"}', {"field-0": "12"}, {"note": "12"}),
        ('{"note": "x"}', {"field-0": ""}, {"note": ""}),
        ('{"tags": [1]}', {"field-0": "[1, 2]"}, {"tags": [1, 2]}),
        ('{"note": "a\\nb"}', {"field-0": "a\r\nc"}, {"note": "a\nc"}),
        ('{"note": "x"}', {"field-1": "VPN"}, {"note": "x", "service": "VPN"}),
    ],
)
def test_what_is_typed_is_written(answer, typed, expected):
    made = json.loads(written(answer, FIELDS, {**sent_as(answer), **typed}))
    assert made == expected
    assert list(made) == list(expected)


def test_broken_json_is_refused():
    with pytest.raises(ValueError, match="tags"):
        written('{"tags": [1]}', FIELDS, {"field-0": "[1"})


def test_plain_text_has_no_inputs():
    assert inputs("VPN", FIELDS) == []
    assert inputs("[1]", FIELDS) == []


@given(ALPHABET, ALPHABET)
def test_pieces_hold_both_texts(old, new):
    found = pieces(old, new)
    assert "".join(piece.text for piece in found if piece.kind != "new") == old
    assert "".join(piece.text for piece in found if piece.kind != "gone") == new


def test_pieces_are_words():
    assert [(one.kind, one.text) for one in pieces("The VPN is down", "The Mail is down")] == [
        ("same", "The "),
        ("gone", "VPN"),
        ("new", "Mail"),
        ("same", " is down"),
    ]
    assert len(pieces("a " * 5000, "b " * 5000)) == 2


def test_text_that_is_nested_too_deeply_stays_text():
    deep = "[" * 100_000
    assert (label_of(deep), value_of(deep)) == (deep, deep)
    assert pretty_answer('{"a":' * 100_000) == []
    with pytest.raises(ValueError, match="note"):
        written('{"note": 1}', FIELDS, {"field-0": deep})
    assert asked_query(QueryDict("field=" + deep), "").field == ""

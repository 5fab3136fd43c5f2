"""A version with planted faults: each is found with its line, and nothing else is."""

import json

import pytest
from django.utils.translation import gettext

from datasets_app.doctor import sentences
from datasets_app.doctor.report import read_ids
from tests.datasets_app.doctor.conftest import examined, good_rows

GOOD = good_rows(2000)
PLANTED = [
    ("empty_answer", "train", "Nothing to say here", "-"),
    ("invalid_json", "train", "The scanner of the third floor is jammed", '{"queue": "IT", "urgency": }'),
    ("missing_field", "train", "Where do I hand in my badge", '{"queue": "HR"}'),
    ("unknown_field", "train", "A parcel has come", '{"queue": "Post", "urgency": "Low", "owner": "me"}'),
    ("wrong_type", "train", "Screens flicker since noon", '{"queue": "IT", "urgency": 3}'),
    ("misspelt_label", "train", "Letters are wet", '{"queue": "Post", "urgency": "Lwo"}'),
    ("rare_label", "train", "Who waters the plants", '{"queue": "Garden", "urgency": "Low"}'),
    ("key_order", "train", "My contract needs a stamp", '{"urgency": "High", "queue": "HR"}'),
    ("long_answer", "train", "Tell me all", '{"queue": "IT", "urgency": "High' + " High" * 400 + '"}'),
    ("damaged_text", "train", "Der DrÃ¼cker klemmt", '{"queue": "IT", "urgency": "Low"}'),
    ("unseen_label", "validation", "Fire in the kitchen", '{"queue": "Fire", "urgency": "High"}'),
    ("duplicate", "train", *GOOD[7][1:]),
    ("leak", "validation", GOOD[9][1], GOOD[9][2]),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return examined(tmp_path_factory.mktemp("version"), [*GOOD, *[planted[1:] for planted in PLANTED]])


@pytest.mark.parametrize(("number", "planted"), list(enumerate(PLANTED)), ids=[planted[0] for planted in PLANTED])
def test_planted_fault_is_found_with_its_line(report, number, planted):
    code, split, _prompt, _answer = planted
    line = len(GOOD) + number + 2
    found = report.finding(code)
    assert found is not None
    if code == "leak":  # noted at the row that can go
        assert [(one.row, one.params["other_row"]) for one in found.examples] == [(11, line)]
        return
    assert (split, line) in {(one.split, one.row) for one in found.examples}


def test_little_else_is_found(report):
    counts = {one.code: one.count for one in report.findings}
    # The over-long value is a rare label as well.
    assert counts == {planted[0]: 1 for planted in PLANTED} | {"rare_label": 2}


def test_every_finding_has_its_words(report):
    for finding in report.findings:
        words = [say(finding, gettext) for say in (sentences.title, sentences.meaning, sentences.advice)]
        words += [sentences.detail(finding, example, gettext) for example in finding.examples]
        assert not [text for text in words if "%(" in text]
        assert str(finding.count) in words[0]


def test_a_confirmed_schema_is_the_rule(diagnose, tmp_path):
    properties = {"queue": {"type": "string", "enum": ["IT", "HR"]}, "urgency": {"type": "string"}}
    schema = {"type": "object", "properties": properties, "required": ["queue"], "additionalProperties": False}
    report = diagnose(GOOD, schema=schema)
    found = report.finding("unknown_label")
    wanted = [number for number, row in enumerate(GOOD, start=1) if json.loads(row[2])["queue"] == "Post"]
    assert found is not None
    assert read_ids(tmp_path, "unknown_label").tolist() == wanted
    assert report.schema == schema


def test_plain_labels_are_a_closed_field(diagnose):
    rows = [(split, prompt, json.loads(answer)["queue"]) for split, prompt, answer in GOOD]
    report = diagnose([*rows, ("train", "What is this", "Psot")])
    assert report.schema is None
    assert report.balance[""]["labels"] == ["IT", "HR", "Post", "Psot"]
    assert [one.code for one in report.findings] == ["misspelt_label"]


def test_balance_counts_equal_a_recount(diagnose):
    balance = diagnose(GOOD).balance
    for field in ("queue", "urgency"):
        for split in ("train", "validation"):
            values = [json.loads(answer)[field] for where, _prompt, answer in GOOD if where == split]
            shown = dict(zip(balance[field]["labels"], balance[field][split], strict=True))
            assert shown == {label: values.count(label) for label in balance[field]["labels"]}

"""Demo tickets are reproducible, balanced enough, and true to the dispatcher's rules."""

import csv
import json
from collections import Counter

import pytest

from datasets_app.demo_tickets import MAPPING, generate, write_files
from datasets_app.importing import read_source
from datasets_app.readers import open_table


@pytest.fixture(scope="module")
def tickets():
    return generate(20, 2_000)


def test_the_seed_decides(tickets):
    assert generate(20, 50) == tickets[:50]
    assert generate(21, 50) != tickets[:50]


def test_answers_are_short_json_in_a_fixed_order(tickets):
    for ticket in tickets:
        assert list(json.loads(ticket.response)) == ["service", "category", "urgency", "user_id"]
        assert json.dumps(json.loads(ticket.response)) == ticket.response
        assert len(ticket.response) < 140


def test_user_ids_stand_in_the_text(tickets):
    for ticket in tickets:
        assert ticket.user_id is None or ticket.user_id in ticket.text
        assert ticket.user_id is not None or "@" not in ticket.text
    assert 0.25 < sum(ticket.user_id is None for ticket in tickets) / len(tickets) < 0.45


def test_texts_differ_and_stay_short(tickets):
    assert len({ticket.text for ticket in tickets}) == len(tickets)
    assert max(len(ticket.text) for ticket in tickets) < 250


def test_a_quarter_is_russian(tickets):
    share = sum(any("а" <= letter <= "я" for letter in ticket.text.lower()) for ticket in tickets) / len(tickets)
    assert 0.2 < share < 0.3


def test_every_class_is_frequent_enough_to_be_learned(tickets):
    for name, classes, least in (("service", 6, 0.1), ("category", 5, 0.1), ("urgency", 4, 0.1)):
        counts = Counter(getattr(ticket, name) for ticket in tickets)
        assert len(counts) == classes
        assert min(counts.values()) / len(tickets) > least


def test_files_share_no_text_and_import_without_a_fault(tmp_path):
    paths = write_files(tmp_path, 20, train=200, validation=30, test=40)
    texts = []
    for part, count in (("train", 200), ("validation", 30), ("test", 40)):
        assert paths[part] == tmp_path / f"{part}.csv"
        with paths[part].open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
        assert rows[0] == ["prompt", "response"]
        texts += [prompt for prompt, _ in rows[1:]]
        outcome = read_source(open_table(paths[part]), MAPPING, None, skip_faulty=False)
        assert (outcome.rows, outcome.fault_count) == (count, 0)
    assert len(set(texts)) == 270

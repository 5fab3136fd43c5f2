"""Planted wrong labels stand at the top of the suspected ones."""

import json
import random

import pytest

from datasets_app.demo_tickets import generate

pytestmark = pytest.mark.slow


def _flipped(count: int, field: str, share: float = 0.05) -> tuple[list[tuple[str, str, str]], set[int]]:
    """Return rows of demo tickets and the ids of those that were given a wrong label in a field."""
    tickets = generate(seed=21, count=count)
    dice = random.Random(8)
    wrong = set(dice.sample(range(count), int(share * count)))
    labels = sorted({json.loads(ticket.response)[field] for ticket in tickets})
    rows = []
    for number, ticket in enumerate(tickets):
        answer = json.loads(ticket.response)
        if number in wrong:
            answer[field] = dice.choice([label for label in labels if label != answer[field]])
        rows.append(("train", ticket.text, json.dumps(answer)))
    return rows, {number + 1 for number in wrong}


@pytest.mark.parametrize("field", ["service", "category", "urgency"])
def test_planted_flips_are_found(diagnose, field):
    rows, wrong = _flipped(3000, field)
    finding = diagnose(rows).finding("label_error")
    assert finding is not None
    mine = [one for one in finding.examples if one.field == field]
    assert len(mine) >= 60
    assert sum(one.id in wrong for one in finding.examples) >= 0.6 * len(finding.examples)
    assert sum(one.id in wrong for one in mine) >= 0.8 * len(mine)


def test_the_right_label_is_suggested(diagnose):
    rows, wrong = _flipped(3000, "service")
    truth = {n: json.loads(one.response)["service"] for n, one in enumerate(generate(seed=21, count=3000), start=1)}
    finding = diagnose(rows).finding("label_error")
    assert finding is not None
    found = [one for one in finding.examples if one.id in wrong and one.field == "service"]
    assert sum(one.params["suggested"] == truth[one.id] for one in found) >= 0.9 * len(found)


def test_many_labels(diagnose):
    dice = random.Random(2)
    words = {f"topic {n}": [f"w{dice.randrange(400)}x" for _ in range(12)] for n in range(60)}
    wrong = set(dice.sample(range(3000), 150))
    rows = []
    for number in range(3000):
        label = f"topic {number % 60}"
        text = " ".join(dice.sample(words[label], 5) + [f"w{dice.randrange(400)}x" for _ in range(5)])
        rows.append(("train", text, f"topic {(number + 7) % 60}" if number in wrong else label))
    finding = diagnose(rows).finding("label_error")
    assert finding is not None
    assert len(finding.examples) >= 60
    assert sum(one.id - 1 in wrong for one in finding.examples) >= 0.6 * len(finding.examples)


def test_labels_that_have_nothing_to_do_with_the_text_are_not_judged(diagnose):
    dice = random.Random(2)
    rows = [("train", one.text, dice.choice(["red", "green", "blue"])) for one in generate(seed=3, count=1000)]
    assert diagnose(rows).finding("label_error") is None

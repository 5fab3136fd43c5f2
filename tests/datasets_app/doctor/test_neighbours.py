"""Near duplicates are found at the planted places, and texts that only share a template are none."""

import random

import pytest

from datasets_app.doctor.neighbours import near_clusters
from datasets_app.doctor.report import read_ids
from datasets_app.rows import CanonicalRow
from tests.datasets_app.doctor.conftest import FILLERS, SUBJECTS, good_rows

WORDS = [*FILLERS, *(word for words in SUBJECTS.values() for word in words)]


def _rows(texts: list[str]) -> list[CanonicalRow]:
    said = ({"role": "user", "content": text} for text in texts)
    return [CanonicalRow(n, (one, {"role": "assistant", "content": "a"}), n) for n, one in enumerate(said, start=1)]


def _clusters(texts: list[str]) -> list[int]:
    return near_clusters(lambda: _rows(texts)).tolist()


def _texts(count: int, words: int = 30) -> list[str]:
    dice = random.Random(11)
    return [" ".join(dice.choices(WORDS, k=words)) for _ in range(count)]


def _changed(text: str, dice: random.Random) -> str:
    """Return the text with one word exchanged and one letter lost."""
    words = text.split()
    words[dice.randrange(len(words))] = "unheard"
    place = dice.randrange(len(words))
    words[place] = words[place][1:]
    return " ".join(words)


@pytest.mark.slow
def test_planted_near_duplicates_are_found():
    dice = random.Random(3)
    texts = _texts(3000)
    planted = dice.sample(range(3000), 200)
    clusters = _clusters(texts + [_changed(texts[one], dice) for one in planted])
    found = sum(clusters[3000 + n] == one for n, one in enumerate(planted))
    assert found >= 0.98 * 200
    assert clusters[:3000] == list(range(3000))


def test_likeness_decides():
    """Clusters are those of the true share of common runs, but for rows close to the threshold."""
    dice = random.Random(4)
    (text,) = _texts(1, words=60)
    words = text.split()
    for exchanged, is_near in ((1, True), (3, True), (14, False), (30, False)):
        others = []
        for _ in range(20):
            changed = list(words)
            for place in dice.sample(range(60), exchanged):
                changed[place] = "".join(dice.sample("abcdefghijklmnop", 6))
            others.append(" ".join(changed))
        joined = [_clusters([text, other])[1] == 0 for other in others]
        assert sum(joined) == (20 if is_near else 0), exchanged


def test_case_blanks_and_numbers_make_no_difference():
    assert _clusters(["Order 17 is late", "order  99231 is LATE", "Order 5 is early"]) == [0, 0, 2]


def test_a_common_template_makes_no_neighbours():
    template = "You are the dispatcher of a large company. Read the ticket below and choose where it goes. Ticket: "
    texts = [template * 3 + text for text in _texts(400, words=8)]
    assert _clusters(texts) == list(range(400))


def test_many_equal_rows_and_no_rows():
    assert _clusters([]) == []
    assert _clusters(["hi"] * 700 + ["a longer text that stands there once, among all of them"]) == [0] * 700 + [700]


@pytest.mark.slow
def test_near_leaks_are_listed(diagnose, tmp_path):
    dice = random.Random(9)
    texts = _texts(1000)
    rows = [("train" if n < 900 else "test", text, f"An answer to {n}.") for n, text in enumerate(texts)]
    rows += [("test", _changed(texts[n], dice), f"Another answer to {n}.") for n in range(0, 50, 10)]
    report = diagnose(rows)
    leak = report.finding("near_leak")
    assert leak is not None
    assert read_ids(tmp_path, "near_leak").tolist() == [1, 11, 21, 31, 41]
    assert {(one.row, one.params["other_row"]) for one in leak.examples} == {(2 + 10 * n, 1002 + n) for n in range(5)}
    assert [one.code for one in report.findings] == ["near_leak"]


def test_conflicts_are_listed_with_their_field(diagnose, tmp_path):
    rows = good_rows(400)
    planted = [
        ("train", rows[n][1], '{"queue": "Post", "urgency": "Low"}') for n in range(200) if "Post" not in rows[n][2]
    ]
    report = diagnose([*rows, *planted[:10], planted[9], planted[9]])
    conflict = report.finding("conflict")
    assert conflict is not None
    # Nine pairs without a majority; of the tenth question, the first row stands against three.
    assert conflict.count == 19
    assert conflict.params["fields"]["queue"] == 19
    assert {one.field for one in conflict.examples} == {"queue"}
    assert len(read_ids(tmp_path, "conflict")) == 19

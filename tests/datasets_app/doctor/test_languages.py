"""Languages are told apart; short texts are not guessed at."""

import pytest

from datasets_app.demo_tickets import generate
from datasets_app.doctor.languages import UNKNOWN, language_of


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("My printer has been broken since yesterday morning", "en"),
        ("Со вчерашнего утра у меня не работает принтер", "ru"),
        ("Seit gestern Morgen ist mein Drucker leider kaputt", "de"),
        ("Mon imprimante ne fonctionne plus depuis hier matin", "fr"),
        ("OK 12345", UNKNOWN),
    ],
)
def test_language(text, language):
    assert language_of(text) == language


def test_mix_is_reported(diagnose):
    rows = [("train", one.text, f"Answer {n}") for n, one in enumerate(generate(seed=3, count=600))]
    report = diagnose(rows)
    shares = report.languages["percent"]
    # A quarter of the demo tickets is in Russian.
    assert 18 <= shares["ru"] <= 32
    assert shares["en"] > 50
    assert report.finding("languages") is not None

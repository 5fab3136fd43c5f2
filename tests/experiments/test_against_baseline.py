"""The first sentence of the report: does the model beat the simple baseline?"""

from __future__ import annotations

import pytest

from experiments.scoring import AnsweredRow, score_answers
from experiments.verdicts import verdict_of

RIGHT, WRONG = '{"a": "x"}', '{"a": "y"}'


def answered(count, *, tuned, tfidf, majority=0.0, **others):
    """Rows of which each subject answers the given share rightly, the first ones."""

    def answer(number, share):
        return RIGHT if number < share * count else WRONG

    return [
        AnsweredRow(
            number,
            RIGHT,
            tuned=answer(number, tuned),
            untuned=WRONG,
            others={
                name: answer(number, share) for name, share in {"tfidf": tfidf, "majority": majority, **others}.items()
            },
        )
        for number in range(count)
    ]


@pytest.mark.parametrize(
    ("tuned", "tfidf", "count", "code", "tone", "words"),
    [
        (0.9, 0.5, 60, "beats", "success", "The tuned model beats the simple baseline"),
        (0.5, 0.9, 60, "does_not_beat", "danger", "The tuned model does not beat the simple baseline"),
        (0.5, 0.5, 60, "no_clear_difference", "warning", "Whether the tuned model beats the simple baseline"),
        (0.9, 0.1, 12, "too_few_rows", "info", "The rows are too few to say whether the tuned model beats"),
    ],
)
def test_the_first_sentence_says_whether_the_model_beats_the_baseline(tuned, tfidf, count, code, tone, words):
    report = score_answers(answered(count, tuned=tuned, tfidf=tfidf)).to_dict()
    (against,) = report["verdict"]["against_baseline"]
    assert (against["code"], against["baseline"], against["measure"]) == (code, "tfidf", "exact_match")
    assert against["difference"] == pytest.approx(tuned - tfidf, abs=0.1)
    told = verdict_of(report["verdict"])
    assert told.tone == tone
    assert told.sentence.startswith(words)


def test_the_stronger_baseline_counts_and_each_way_of_asking_is_compared():
    report = score_answers(answered(60, tuned=0.4, tfidf=0.3, majority=0.6, scored=1.0))
    found = {one.way: (one.baseline, one.code) for one in report.verdict.against_baseline}
    assert found == {"tuned": ("majority", "does_not_beat"), "scored": ("majority", "beats")}
    told = verdict_of(report.to_dict()["verdict"])
    assert told.sentence.startswith("The tuned model does not beat the simple baseline (Most frequent answer): 40.0%")
    assert (told.tone, told.title) == ("warning", "Beats the simple baseline only when asked another way")
    assert "Asked another way (Tuned, choosing among allowed values), it beats it: 100.0%." in told.sentence


def test_figures_of_everybody_are_kept_per_field():
    report = score_answers(answered(40, tuned=1.0, tfidf=0.5, majority=0.25)).to_dict()
    assert {name: scores["exact_match"] for name, scores in report["others"].items()} == {
        "tfidf": 0.5,
        "majority": 0.25,
    }
    assert report["fields"][0]["others"] == {"tfidf": 0.5, "majority": 0.25}
    assert report["others"]["tfidf"]["fields"][0]["confusion"] is None
    assert report["tuned"]["fields"][0]["confusion"] is not None


def test_free_text_is_compared_by_its_words():
    rows = [
        AnsweredRow(n, f"answer number {n} of many", tuned=f"answer number {n} it is", others={"tfidf": "who knows"})
        for n in range(30)
    ]
    (against,) = score_answers(rows).verdict.against_baseline
    assert (against.measure, against.code, against.baseline_reached) == ("score", "beats", 0.0)


def test_reports_without_baselines_read_as_before():
    report = score_answers([AnsweredRow(n, RIGHT, tuned=RIGHT, untuned=WRONG) for n in range(40)]).to_dict()
    assert report["verdict"]["against_baseline"] == []
    old = {name: value for name, value in report["verdict"].items() if name != "against_baseline"}
    assert verdict_of(old) == verdict_of(report["verdict"])
    assert verdict_of(old).title == "Clearly better than the untuned model"

"""Judging answers: equality of JSON, of text, and the figures of a whole evaluation."""

import json
import random

import pytest

from datasets_app.fields import Field
from experiments.scoring import AnsweredRow, rank_rows, row_score, score_answers
from experiments.scoring.subjects import score_subject

EXPECTED = '{"service": "Cloud IAM", "urgency": "High", "user_id": null}'


def routing(service="Cloud IAM", urgency="High", user_id=None):
    return json.dumps({"service": service, "urgency": urgency, "user_id": user_id})


@pytest.mark.parametrize(
    "answer",
    [
        EXPECTED,
        '{"user_id":null,"urgency":"High","service":"Cloud IAM"}',
        '  {"service": "Cloud IAM",\n "urgency": "High", "user_id": null}\n',
        '{"service": "Cloud \\u0049AM", "urgency": "High", "user_id": null}',
    ],
)
def test_key_order_spacing_and_escapes_do_not_matter(answer):
    score = row_score(EXPECTED, answer)
    assert score.exact
    assert score.score == 1.0


@pytest.mark.parametrize(
    ("answer", "share"),
    [
        ('{"service": "Cloud IAM", "urgency": "High", "user_id": "null"}', 2 / 3),
        ('{"service": "Cloud IAM", "urgency": "High"}', 2 / 3),
        ('{"service": "cloud iam", "urgency": "High", "user_id": null}', 2 / 3),
        ('{"service": "Cloud IAM", "urgency": "High", "user_id": null, "note": 1}', 0.99),
        ('{"service": "Cloud IAM", "urgency": "High", "user_id": null} ok', 0),
        ('```json\n{"service": "Cloud IAM"}\n```', 0),
        ('["Cloud IAM"]', 0),
        ('{"service": NaN}', 0),
        ('{"service": "Cloud IAM", "service": "Cloud IAM"}', 0),
        ("", 0),
        (None, 0),
        ("[" * 100_000, 0),
        ('{"service": ' + "9" * 100_000 + "}", 0),
    ],
)
def test_types_and_surplus_fields_matter(answer, share):
    score = row_score(EXPECTED, answer)
    assert not score.exact
    assert score.score == pytest.approx(share)


@pytest.mark.parametrize(("left", "right", "same"), [("1", "1.0", True), ("1", "true", False), ("0", "null", False)])
def test_numbers_are_one_type_and_booleans_another(left, right, same):
    assert row_score(f'{{"a": {left}}}', f'{{"a": {right}}}').exact is same


def test_nested_values_are_compared_whole():
    assert row_score('{"a": {"x": 1, "y": [1, 2]}}', '{"a": {"y": [1, 2], "x": 1}}').exact
    assert not row_score('{"a": {"x": 1, "y": [1, 2]}}', '{"a": {"y": [2, 1], "x": 1}}').exact


def test_text_answers_are_compared_word_by_word():
    assert row_score("Reset the password", " Reset  the\npassword ").exact
    score = row_score("reset the password now", "Reset password!")
    assert not score.exact
    assert score.valid_json is None
    # 2 shared words, precision 1, recall 1/2
    assert score.score == pytest.approx(2 / 3)
    assert row_score("сбросить пароль", "Пароль сбросить").score == 0.99
    assert row_score("yes", "").score == 0.0


def test_a_bare_number_is_text():
    assert row_score("7", "7").valid_json is None


def test_report_compares_both_models_on_the_same_rows():
    rows = [AnsweredRow(n, routing(urgency=u), tuned=routing(urgency=u), untuned="Sure!") for n, u in urgencies(40)]
    rows[0] = AnsweredRow(0, routing(), tuned="no idea", untuned=routing())
    report = score_answers(rows)
    assert report.tuned.exact_match == pytest.approx(39 / 40)
    assert report.untuned.exact_match == pytest.approx(1 / 40)
    assert (report.tuned.json_valid, report.untuned.json_valid) == (39 / 40, 1 / 40)
    assert (report.difference.better_rows, report.difference.worse_rows) == (39, 1)
    assert report.difference.exact_match == pytest.approx(38 / 40)
    assert report.difference.low < 38 / 40 < report.difference.high
    assert report.verdict.code == "clearly_better"
    assert report.kind == "json"


def urgencies(count):
    return [(n, ("High", "Low")[n % 2]) for n in range(count)]


@pytest.mark.parametrize(
    ("count", "tuned", "untuned", "code"),
    [
        (40, "x", "y", "clearly_better"),
        (40, "y", "x", "clearly_worse"),
        (40, "x", "x", "no_clear_difference"),
        (19, "x", "y", "too_few_rows"),
        (40, "x", None, "not_compared"),
    ],
)
def test_verdict_follows_the_interval(count, tuned, untuned, code):
    report = score_answers([AnsweredRow(n, "x", tuned=tuned, untuned=untuned) for n in range(count)])
    assert report.verdict.code == code


def test_report_is_json_and_reproducible():
    rows = [AnsweredRow(n, routing(urgency=u), tuned=routing(), untuned="{}") for n, u in urgencies(30)]
    first, second = score_answers(rows, seed=3).to_dict(), score_answers(rows, seed=3).to_dict()
    assert first == second
    assert json.loads(json.dumps(first)) == first
    assert first["tuned"]["exact_match"] == 0.5
    assert {field["name"]: field["closed"] for field in first["fields"]}["urgency"] is True


def test_weakest_field_is_named():
    rows = [AnsweredRow(n, routing(urgency=u), tuned=routing()) for n, u in urgencies(30)]
    verdict = score_answers(rows).verdict
    assert (verdict.weakest_field, verdict.weakest_accuracy) == ("urgency", 0.5)


def test_fields_may_be_given():
    field = Field("service", closed=False, values=(), counts=(), share=1.0)
    report = score_answers([AnsweredRow(1, EXPECTED, tuned=EXPECTED)], fields=[field])
    assert [scores.name for scores in report.tuned.fields] == ["service"]
    assert report.tuned.fields[0].classes is None


def test_text_and_json_may_be_mixed():
    report = score_answers([AnsweredRow(1, EXPECTED, tuned=EXPECTED), AnsweredRow(2, "yes", tuned="yes")])
    assert report.kind == "mixed"
    assert (report.tuned.json_valid, report.tuned.token_f1) == (1.0, 1.0)


@pytest.mark.parametrize("rows", [[], [AnsweredRow(1, "x", tuned=None)]])
def test_nothing_to_score_is_an_error(rows):
    with pytest.raises(ValueError, match="needs rows"):
        score_answers(rows)


def test_rows_are_ranked():
    rows = [AnsweredRow(n, "a b c d", tuned=text) for n, text in ((3, "a b c d"), (1, "x"), (2, "a b"), (4, "y"))]
    assert [item.answered.row for item in rank_rows(rows, order="worst", count=3)] == [1, 4, 2]
    assert [item.answered.row for item in rank_rows(rows, order="best", count=2)] == [3, 2]
    drawn = rank_rows(rows, order="random", count=4, seed=1)
    assert drawn == rank_rows(rows, order="random", count=4, seed=1)
    assert {item.answered.row for item in drawn} == {1, 2, 3, 4}


def test_accuracy_and_macro_f1_of_each_field_say_how_far_they_can_be_trusted():
    chance = random.Random(4)
    wanted = [json.dumps({"queue": chance.choice("abc"), "note": str(number)}) for number in range(120)]
    given = [text if chance.random() < 0.8 else '{"queue": "a", "note": ""}' for text in wanted]
    fields = [Field("queue", True, ("a", "b", "c"), (40, 40, 40), 1.0), Field("note", False, (), (), 1.0)]
    scores = score_subject(wanted, given, fields, seed=1, with_f1_intervals=True)
    queue, note = scores.fields
    for field in scores.fields:
        assert field.accuracy_low < field.accuracy < field.accuracy_high
        assert 0.05 < field.accuracy_high - field.accuracy_low < 0.25
    assert queue.f1_low < queue.f1 < queue.f1_high
    assert 0.05 < queue.f1_high - queue.f1_low < 0.25
    assert (note.f1_low, note.f1_high) == (None, None)
    again = score_subject(wanted, given, fields, seed=1, with_f1_intervals=True)
    assert again == scores, "the same rows and seed give the same bounds"
    assert score_subject(wanted, given, fields, seed=1).fields[0].f1_low is None
    perfect = score_subject(wanted[:10], wanted[:10], fields, seed=1, with_f1_intervals=True).fields[0]
    assert perfect.f1 == perfect.f1_high == 1.0
    assert perfect.f1_low < 0.8, "ten rows exclude little"

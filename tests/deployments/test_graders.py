"""Graders of fine-tuning: rules over one answer, asked through the strict SDK, and what is refused by name."""

from __future__ import annotations

import math

import openai
import pytest

from deployments.openai_api.formulas import BadFormula, Formula
from tests.deployments.sdk import sdk

pytestmark = pytest.mark.django_db

CHECK = {
    "type": "string_check", "name": "queue", "operation": "eq",
    "input": "{{sample.output_json.queue}}", "reference": "{{ item.queue }}",
}  # fmt: skip
ALIKE = {
    "type": "text_similarity", "name": "words", "evaluation_metric": "rouge_1",
    "input": "{{sample.output_text}}", "reference": "the printer does not print",
}  # fmt: skip
ITEM = {"queue": "vpn", "tags": ["a", {"b": True}], "empty": None}


@pytest.fixture
def graders(token):
    return sdk(token).fine_tuning.alpha.graders


@pytest.mark.parametrize(
    ("changes", "sample", "reward"),
    [
        ({}, '{"queue": "vpn"}', 1.0),
        ({}, '{"queue": "VPN"}', 0.0),
        ({"operation": "ne"}, '{"queue": "VPN"}', 1.0),
        ({"operation": "like", "reference": "pn"}, '{"queue": "vpn"}', 1.0),
        ({"operation": "like", "reference": "PN"}, '{"queue": "vpn"}', 0.0),
        ({"operation": "ilike", "reference": "PN"}, '{"queue": "vpn"}', 1.0),
        ({"input": "{{item.tags.1.b}} {{item.empty}}", "reference": "true null"}, "x", 1.0),
        ({"input": "{{sample.output_json}}", "reference": "7"}, "7", 1.0),
        ({"input": "{{sample.output_text}}", "reference": "{{item.queue}}}}"}, "vpn}}", 1.0),
    ],
)
def test_texts_are_compared(graders, changes, sample, reward):
    answer = graders.run(grader={**CHECK, **changes}, item=ITEM, model_sample=sample)
    assert (answer.reward, answer.sub_rewards) == (reward, {})
    assert (answer.metadata.name, answer.metadata.type, answer.metadata.scores) == (
        "queue", "string_check", {"queue": reward},
    )  # fmt: skip
    assert not any(answer.metadata.errors.model_dump(exclude_none=True).values())


@pytest.mark.parametrize(
    ("changes", "sample", "error"),
    [
        ({}, "no json", "sample_parse_error"),
        ({}, '{"team": "vpn"}', "invalid_variable_error"),
        ({"reference": "{{item.tags.7}}"}, '{"queue": "vpn"}', "invalid_variable_error"),
        ({"reference": "{{sample.output_text}}" * 100}, '{"queue": "' + "v" * 20_000 + '"}', "other_error"),
    ],
)
def test_what_cannot_be_looked_at_gets_nothing_and_says_why(graders, changes, sample, error):
    answer = graders.run(grader={**CHECK, **changes}, item=ITEM, model_sample=sample)
    told = answer.metadata.errors.model_dump(exclude_none=True)
    assert (answer.reward, [name for name, holds in told.items() if holds]) == (0.0, [error])


def test_placeholders_in_what_is_filled_in_stay_text(graders):
    answer = graders.run(
        grader={**CHECK, "input": "{{sample.output_text}}", "reference": "{{item.queue}}"},
        item={"queue": "{{item.secret}}", "secret": "x"}, model_sample="{{item.secret}}",
    )  # fmt: skip
    assert answer.reward == 1.0


def test_shared_words_are_counted(graders):
    def score(size: int, sample: str) -> float:
        return graders.run(grader={**ALIKE, "evaluation_metric": f"rouge_{size}"}, model_sample=sample).reward

    assert score(1, "The printer does not print") == 1.0
    assert score(1, "the printer prints") == pytest.approx(2 * 2 / (3 + 5))
    assert score(2, "the printer prints") == pytest.approx(2 * 1 / (2 + 4))
    assert score(3, "nothing at all") == 0.0


@pytest.mark.parametrize(("sample", "reward"), [("VPN!", 1.0), ("mail", 0.0), ("the vpn", 0.0)])
def test_texts_too_short_for_runs_are_alike_with_the_same_words_only(graders, sample, reward):
    short = {**ALIKE, "evaluation_metric": "rouge_2", "reference": "vpn"}
    assert graders.run(grader=short, model_sample=sample).reward == reward


def test_several_graders_make_one_reward(token):
    multi = {
        "type": "multi", "name": "all", "calculate_output": "0.25 * queue + 0.75 * max(words, 0) ^ 2",
        "graders": {"queue": CHECK, "words": ALIKE},
    }  # fmt: skip
    graders = sdk(token, strict=False).fine_tuning.alpha.graders  # strict, its model wants a single grader in there
    assert graders.validate(grader=multi).grader.model_dump()["calculate_output"] == multi["calculate_output"]
    answer = graders.run(grader=multi, item=ITEM, model_sample='{"queue": "vpn"}')
    assert (answer.reward, answer.sub_rewards) == (0.25, {"queue": 1.0, "words": 0.0})
    broken = graders.run(grader={**multi, "calculate_output": "queue / words"}, item=ITEM, model_sample='{"queue": 1}')
    assert (broken.reward, broken.metadata.errors.formula_parse_error) == (0.0, True)


def test_one_grader_inside_of_several_is_what_the_sdk_types(graders):
    multi = {"type": "multi", "name": "all", "calculate_output": "1 - queue", "graders": CHECK}
    assert graders.validate(grader=multi).grader.name == "all"
    assert graders.run(grader=multi, item=ITEM, model_sample='{"queue": "vpn"}').reward == 0.0


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"type": "python"}, "grader.type"),
        ({"type": "score_model"}, "grader.type"),
        ({"type": "label_model"}, "grader.type"),
        ({"operation": "matches"}, "grader.operation"),
        ({"input": None}, "grader.input"),
        ({"input": "{{item.__class__}} {{os.environ}}"}, "grader.input"),
        ({"input": "{{sample.choices}}"}, "grader.input"),
        ({"reference": "{% if 1 %}{{ 7 * 7 }}"}, "grader.reference"),
        ({"reference": "{{item.x}}" * 101}, "grader.reference"),
        ({"pass_threshold": 1}, "grader.pass_threshold"),
        ({**ALIKE, "operation": "eq"}, "grader.operation"),
    ],
)
def test_what_is_no_grader_of_ours_is_refused_by_name(graders, changes, param):
    for ask in (
        lambda: graders.validate(grader={**CHECK, **changes}),
        lambda: graders.run(grader={**CHECK, **changes}, item=ITEM, model_sample="x"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            ask()
        assert caught.value.param == param


@pytest.mark.parametrize(
    ("inner", "formula", "param"),
    [
        ({"a": {**CHECK, "type": "multi"}}, "a", "grader.graders.a.type"),
        ({}, "1", "grader.graders"),
        ({"a": CHECK}, "a + b", "grader.calculate_output"),
        ({"a": CHECK}, "__import__('os')", "grader.calculate_output"),
    ],
)
def test_several_graders_are_looked_at_one_by_one(graders, inner, formula, param):
    with pytest.raises(openai.BadRequestError) as caught:
        graders.validate(grader={"type": "multi", "name": "m", "graders": inner, "calculate_output": formula})
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("text", "value"),
    [("a + 2 * b", 2.0), ("-a ^ 2", -1.0), ("min(a, b, 3)", 0.5), ("floor(b) + sqrt(4) / exp(0)", 2.0),
     ("log(a)", 0.0), ("abs(b - a)", 0.5)],
)  # fmt: skip
def test_formulas(text, value):
    assert Formula.read(text, {"a", "b"}).value({"a": 1.0, "b": 0.5}) == pytest.approx(value)


@pytest.mark.parametrize(
    "text",
    ["", "a +", "a.real", "a if b else 1", "[a]", "'x' * 9", "a and b", "pow(a, b)", "min(*a)", "max(a, key=b)", "True",
     "lambda: a", "a" * 501, "(" * 300 + "a" + ")" * 180, "-" * 499 + "a"],
)  # fmt: skip
def test_what_is_no_arithmetic_is_no_formula(text):
    try:
        formula = Formula.read(text, {"a", "b"})
    except BadFormula:
        return
    assert text.startswith("---")
    assert formula.value({"a": 1.0, "b": 1.0}) == -1.0


@pytest.mark.parametrize(
    "text", ["a / 0", "sqrt(0 - a)", "10 ^ 10 ^ 10", "(0 - a) ^ 0.5", "log(0)", "min(a)", "exp(1e9)"]
)
def test_formulas_without_a_value_say_so(text):
    with pytest.raises(ArithmeticError):
        Formula.read(text, {"a"}).value({"a": 1.0})
    assert math.isfinite(Formula.read("a", {"a"}).value({"a": 1.0}))

"""A dataset that cannot teach what a run is to learn is refused when the run is submitted, in words."""

from dataclasses import replace

import pytest

from datasets_app.rows import CanonicalRow
from datasets_app.store import read_rows, write_rows
from experiments.hyperparameters import Hyperparameters
from experiments.problem_fit import require_fit
from portal.errors import InvalidInput, Unavailable
from tests.experiments.runs import make_version, submit

pytestmark = pytest.mark.django_db


@pytest.fixture
def version(team):
    return make_version(team)


def answers(version, *given, split="train"):
    """Give the rows of a split these answers, in turn."""
    rows = [
        CanonicalRow(
            number + 2,
            ({"role": "user", "content": f"t{number}"}, {"role": "assistant", "content": given[number % len(given)]}),
            number + 1,
        )
        for number in range(version.row_count(split))
    ]
    write_rows(version.rows_path(split), rows)


def refusal(version, problem_type, **more):
    with pytest.raises(InvalidInput) as caught:
        require_fit(version, Hyperparameters(problem_type=problem_type, **more))
    assert caught.value.param == "dataset_version"
    return caught.value.message


def test_labels_have_to_be_names_that_come_back(version):
    assert "JSON objects" in refusal(version, "classification")
    answers(version, "Refund")
    assert "same label" in refusal(version, "classification")
    answers(version, *(f"A text of its own {n}" for n in range(12)))
    assert "hardly ever repeat" in refusal(version, "classification")
    answers(version, "Refund", "x" * 600)
    assert "longest with 600" in refusal(version, "classification")
    answers(version, "Refund", "Card lost")
    require_fit(version, Hyperparameters(problem_type="classification"))


def test_numbers_have_to_be_numbers_in_every_split(version):
    assert "Training" in refusal(version, "regression")
    answers(version, "7", "-2.5", "0")
    assert "Validation" in refusal(version, "regression")
    answers(version, "7", split="validation")
    require_fit(version, Hyperparameters(problem_type="regression"))
    for wrong in ("1,5", "1e5", "nan", "7 €", "inf", " 7"):
        answers(version, "7", wrong)
        assert "needs numbers" in refusal(version, "regression")
    answers(version, "7", "7.0")
    assert "same number" in refusal(version, "regression")


def test_a_refused_run_leaves_nothing_behind(team, actor, version, base_model):
    with pytest.raises(InvalidInput, match="JSON objects"):
        submit(team, actor, version, base_model, hyperparameters=Hyperparameters(problem_type="classification"))
    assert not team.runs.exists()


def test_rows_that_are_not_there_are_said_to_be_missing(version):
    version.rows_path("train").unlink()
    with pytest.raises(Unavailable):
        require_fit(version, Hyperparameters(problem_type="classification"))


def test_preferences_need_a_worse_answer_in_every_row(version):
    assert "worse one" in refusal(version, "preference")
    for split in ("train", "validation"):
        rows = [replace(row, rejected="No.") for row in read_rows(version.rows_path(split))]
        assert "worse one" in refusal(version, "preference")
        write_rows(version.rows_path(split), rows)
    require_fit(version, Hyperparameters(problem_type="preference"))


@pytest.mark.parametrize("other", [{"training_kind": "full"}, {"lora_init": "pissa", "lora_r": 8}], ids=str)
def test_preferences_need_an_adapter_that_can_be_switched_off(other):
    with pytest.raises(ValueError, match="Preferences compare with the base model"):
        Hyperparameters(problem_type="preference", **other)


def test_texts_without_answers_are_for_pretraining_alone(version):
    answers(version, "")
    for problem_type in ("chat", "classification", "preference", "regression"):
        assert "texts without answers" in refusal(version, problem_type) or problem_type == "regression"
    require_fit(version, Hyperparameters(problem_type="pretraining"))

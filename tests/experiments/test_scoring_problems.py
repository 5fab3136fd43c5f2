"""Figures of problem types equal scikit-learn's; verdicts say what the figures say."""

import math
import random

import pytest
from sklearn import metrics

from experiments.problem_file import Problem
from experiments.scoring.classification import area_under_curve, log_loss, macro_f1
from experiments.scoring.problems import ScoredRow, score_problem
from experiments.scoring.regression import number_of, number_scores

LABELS = ["Card", "Card lost", "PIN", "Überweisung"]


def draw(count: int, seed: int):
    chance = random.Random(seed)
    expected = [*LABELS, *(chance.choice(LABELS) for _ in range(count - len(LABELS)))]
    rows = []
    for label in expected:
        weights = [chance.random() + (label == one) * chance.random() for one in LABELS]
        rows.append([round(weight / sum(weights), 2) for weight in weights])  # rounded, so that there are ties
        rows[-1][0] += 1 - sum(rows[-1])
    return expected, rows


@pytest.mark.parametrize("seed", range(5))
def test_classification_figures_are_those_of_scikit_learn(seed):
    expected, probabilities = draw(60, seed)
    answered = [LABELS[row.index(max(row))] for row in probabilities]
    answered[7] = "a label that nobody knows"
    known = sorted({*expected, *answered})
    assert macro_f1(expected, answered) == pytest.approx(
        metrics.f1_score(expected, answered, average="macro", labels=known, zero_division=0)
    )
    assert log_loss(expected, LABELS, probabilities) == pytest.approx(
        metrics.log_loss(expected, probabilities, labels=LABELS)
    )
    assert area_under_curve(expected, LABELS, probabilities) == pytest.approx(
        metrics.roc_auc_score(expected, probabilities, multi_class="ovr", average="macro", labels=LABELS)
    )


def test_two_labels_have_the_area_of_a_binary_curve():
    chance = random.Random(1)
    expected = [chance.choice("ab") for _ in range(40)]
    shares = [chance.random() for _ in expected]
    found = area_under_curve(expected, ["a", "b"], [[1 - share, share] for share in shares])
    assert found == pytest.approx(metrics.roc_auc_score([one == "b" for one in expected], shares))
    assert area_under_curve(["a", "a"], ["a", "b"], [[1.0, 0.0]] * 2) is None


def test_a_label_that_was_never_learned_costs_much_and_breaks_nothing():
    assert log_loss(["new"], ["a", "b"], [[0.5, 0.5]]) > 30


def test_regression_figures_are_those_of_scikit_learn():
    chance = random.Random(2)
    expected = [chance.uniform(-5, 9) for _ in range(50)]
    given = [one + chance.gauss(0, 2) for one in expected]
    found = number_scores(expected, given)
    assert found.mse == pytest.approx(metrics.mean_squared_error(expected, given))
    assert found.mae == pytest.approx(metrics.mean_absolute_error(expected, given))
    assert found.r2 == pytest.approx(metrics.r2_score(expected, given))
    assert number_scores(expected, [None] * 50).r2 == pytest.approx(0)
    assert number_scores([1.0, 1.0], [1.0, 2.0]).r2 is None
    assert [number_of(text) for text in ("7", " -2.5 ", "seven", "nan", "")] == [7.0, -2.5, None, None, None]


def report_of(problem, rows):
    return score_problem(problem, rows).to_dict()


def figures(report):
    return {one["name"]: (one["tuned"], one["untuned"]) for one in report["figures"]}


def test_a_classification_report_compares_both_models():
    expected, probabilities = draw(40, 3)
    even = [0.25] * 4
    rows = [
        ScoredRow(n, label, {"tuned": label, "untuned": "Card"}, {"tuned": row, "untuned": even})
        for n, (label, row) in enumerate(zip(expected, probabilities, strict=True))
    ]
    report = report_of(Problem("classification", labels=tuple(LABELS)), rows)
    found = figures(report)
    assert found["accuracy"] == (1.0, expected.count("Card") / 40)
    assert found["log_loss"][1] == pytest.approx(math.log(4))
    assert found["auc"][1] == pytest.approx(0.5)
    assert report["verdict"]["code"] == "clearly_better"
    assert set(report["confusion"]["labels"]) == set(LABELS)


def test_a_preference_report_measures_rewards_against_the_untuned_model():
    rows = [
        ScoredRow(n, "b", {}, {"tuned": (-9.0, -20.0 if n else -5.0), "untuned": (-10.0, -10.0)}) for n in range(20)
    ]
    found = figures(report := report_of(Problem("preference", loss="sigmoid", beta=0.5), rows))
    assert found["reward_accuracy"] == (0.95, None)
    assert found["reward_margin"][0] == pytest.approx(0.5 * (19 * 11 - 4) / 20)
    assert found["prefers_better"] == (0.95, 0.0)
    assert report["verdict"]["code"] == "clearly_better"


def test_perplexity_is_over_all_tokens_and_not_a_mean_of_rows():
    rows = [
        ScoredRow(1, "", {}, {"tuned": (-10.0, 10), "untuned": (-20.0, 10)}),
        ScoredRow(2, "", {}, {"tuned": (-300.0, 100), "untuned": (-300.0, 100)}),
    ]
    report = report_of(Problem("pretraining"), rows)
    assert figures(report)["perplexity"][0] == pytest.approx(math.exp(310 / 110))
    assert report["verdict"]["code"] == "too_few_rows"


def test_a_regression_report_knows_that_less_error_is_better():
    rows = [ScoredRow(n, str(n), {"tuned": f"{n + 1}", "untuned": "0" if n % 2 else "none"}, {}) for n in range(30)]
    report = report_of(Problem("regression"), rows)
    assert figures(report)["mae"][0] == pytest.approx(1)
    assert figures(report)["unreadable"] == (0.0, 0.5)
    assert report["verdict"]["lower_is_better"]
    assert report["verdict"]["code"] == "clearly_better"
    with pytest.raises(ValueError, match="rows"):
        score_problem(Problem("regression"), [])

"""The figures of closed fields equal scikit-learn's, and intervals cover what they promise."""

import json
import random

import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

from experiments.scoring import ABSENT, OTHER, AnsweredRow, score_answers
from experiments.scoring.intervals import bootstrap_interval

LABELS = ["Low", "Medium", "High", "Critical"]


def noisy_rows(seed, count=300):
    """Answers that are right, wrong, invented, without the field or no JSON at all."""
    dice = random.Random(seed)
    rows = []
    for number in range(count):
        expected = dice.choices(LABELS, (50, 30, 15, 5))[0]
        answer = dice.choices([expected, dice.choice(LABELS), "Urgent", None], (60, 20, 10, 10))[0]
        text = json.dumps({"urgency": answer}) if answer else dice.choice(["{}", "I think it is low", '{"urgency": '])
        rows.append((AnsweredRow(number, json.dumps({"urgency": expected}), tuned=text), expected, answer or ABSENT))
    return rows


@pytest.mark.parametrize("seed", range(5))
def test_closed_field_equals_scikit_learn(seed):
    rows, expected, answered = zip(*noisy_rows(seed), strict=True)
    (field,) = score_answers(rows).tuned.fields
    labels = [scores.label for scores in field.classes]
    per_class = precision_recall_fscore_support(expected, answered, labels=labels, zero_division=0)
    for place, scores in enumerate(field.classes):
        assert scores.precision == pytest.approx(per_class[0][place])
        assert scores.recall == pytest.approx(per_class[1][place])
        assert scores.f1 == pytest.approx(per_class[2][place])
        assert scores.support == per_class[3][place]
    macro = precision_recall_fscore_support(expected, answered, labels=labels, average="macro", zero_division=0)
    assert (field.precision, field.recall, field.f1) == pytest.approx(macro[:3])
    assert field.accuracy == pytest.approx(accuracy_score(expected, answered))


@pytest.mark.parametrize("seed", range(5))
def test_confusion_equals_scikit_learn(seed):
    rows, expected, answered = zip(*noisy_rows(seed), strict=True)
    confusion = score_answers(rows).tuned.fields[0].confusion
    merged = [OTHER if answer == "Urgent" else answer for answer in answered]
    assert confusion.answers == (*confusion.labels, OTHER, ABSENT)
    reference = confusion_matrix(expected, merged, labels=list(confusion.answers))
    assert [list(line) for line in confusion.counts] == reference[: len(confusion.labels)].tolist()
    assert sum(map(sum, confusion.counts)) == len(rows)


def test_majority_accuracy_is_the_most_frequent_class():
    rows, expected, _ = zip(*noisy_rows(1), strict=True)
    (field,) = score_answers(rows).tuned.fields
    assert field.majority_accuracy == max(expected.count(label) for label in LABELS) / len(expected)


@pytest.mark.slow
def test_interval_covers_the_true_share():
    dice = random.Random(5)
    covered = 0
    for trial in range(60):
        values = [float(dice.random() < 0.7) for _ in range(40)]
        interval = bootstrap_interval(values, least=0.0, most=1.0, seed=trial)
        covered += interval.low <= 0.7 <= interval.high
    assert covered / 60 >= 0.88


def test_interval_is_the_binomial_one():
    """The bootstrap distribution of a share is binomial, so its quantiles are known."""
    from scipy.stats import binom

    interval = bootstrap_interval([1.0] * 70 + [0.0] * 30, least=0.0, most=1.0, seed=0)
    assert interval.low == pytest.approx(binom.ppf(0.025, 100, 0.7) / 100, abs=0.011)
    assert interval.high == pytest.approx(binom.ppf(0.975, 100, 0.7) / 100, abs=0.011)


@pytest.mark.parametrize("count", [1, 10, 100])
def test_interval_of_equal_values_is_the_exact_one(count):
    from scipy.stats import binomtest

    reference = binomtest(count, count).proportion_ci(0.95, method="exact")
    interval = bootstrap_interval([1.0] * count, least=0.0, most=1.0, seed=0)
    assert (interval.low, interval.high) == pytest.approx((reference.low, 1.0))


def test_interval_of_many_rows_is_quick():
    interval = bootstrap_interval([1.0, 0.0] * 5_000, least=0.0, most=1.0, seed=0)
    assert 0.48 < interval.low < 0.5 < interval.high < 0.52


def test_interval_needs_values():
    with pytest.raises(ValueError, match="needs values"):
        bootstrap_interval([], least=0.0, most=1.0, seed=0)

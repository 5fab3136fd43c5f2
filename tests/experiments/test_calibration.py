"""Temperatures and thresholds: fitted on some rows, true on others; figures as scikit-learn and by hand."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss, roc_auc_score

from experiments.scoring.calibration import (
    abstentions,
    calibrate_field,
    error_by_chance,
    expected_calibration_error,
    fit_temperature,
    probabilities,
    rank_field,
    threshold_for,
)


def overconfident(count: int, *, factor: float, seed: int) -> list[tuple[list[float], int]]:
    """Answers drawn from honest probabilities, told with logits `factor` times as sharp."""
    draw, rows = random.Random(seed), []
    for _ in range(count):
        logits = [draw.gauss(0, 2) for _ in range(4)]
        right = draw.choices(range(4), probabilities(logits, 1.0))[0]
        rows.append(([factor * one for one in logits], right))
    return rows


def judged(rows, temperature):
    spread = [(probabilities(logits, temperature), right) for logits, right in rows]
    return [(max(one), one.index(max(one)) == right) for one, right in spread]


@pytest.mark.parametrize("factor", [3.0, 0.5])
def test_the_temperature_makes_confidence_true_on_other_rows(factor):
    temperature = fit_temperature(overconfident(800, factor=factor, seed=1))
    assert temperature == pytest.approx(factor, rel=0.15)
    others = overconfident(2000, factor=factor, seed=2)
    before, after = (expected_calibration_error(judged(others, one)) for one in (1.0, temperature))
    assert after < 0.05 < before
    assert fit_temperature([]) == 1.0


def test_the_temperature_is_the_best_one():
    rows = overconfident(200, factor=2.0, seed=5)

    def loss(temperature: float) -> float:
        return -sum(math.log(probabilities(logits, temperature)[right]) for logits, right in rows)

    found = fit_temperature(rows)
    assert all(loss(found) <= loss(one) + 1e-9 for one in np.linspace(0.2, 6, 200))


def test_calibration_error_is_that_of_scikit_learn():
    rows = judged(overconfident(500, factor=3.0, seed=3), 1.0)
    confidences, rights = np.array([one for one, _ in rows]), np.array([right for _, right in rows])
    share, mean = calibration_curve(rights, confidences, n_bins=10, strategy="uniform")
    counts = np.bincount(np.minimum((confidences * 10).astype(int), 9), minlength=10)
    reference = float((np.abs(share - mean) * counts[counts > 0]).sum() / len(rows))
    assert expected_calibration_error(rows) == pytest.approx(reference)
    with pytest.raises(ValueError, match="nothing"):
        expected_calibration_error([])


def test_true_confidences_have_the_error_of_chance():
    confidences = [confidence for confidence, _ in judged(overconfident(500, factor=1.0, seed=3), 1.0)]
    drawn = random.Random(1)
    found = [expected_calibration_error([(one, drawn.random() < one) for one in confidences]) for _draw in range(300)]
    told = error_by_chance([(one, True) for one in confidences])
    assert told == pytest.approx(sum(found) / len(found), rel=0.05)
    assert error_by_chance([(one, True) for one in confidences * 4]) == pytest.approx(told / 2)
    assert error_by_chance([(1.0, False)]) == 0
    with pytest.raises(ValueError, match="nothing"):
        error_by_chance([])


def test_thresholds_are_the_lowest_that_are_right_often_enough():
    rows = [(1.0, True), (0.99, True), (0.98, False), (0.97, True), (0.96, True), (0.95, False)]
    assert threshold_for(rows, 0.8) == 0.96
    assert threshold_for(rows, 0.9) == 0.99
    assert threshold_for(rows, 0.1) == 0.95
    assert threshold_for([(0.9, False)], 0.5) is None
    assert threshold_for([(0.9, True), (0.9, False)], 0.6) is None  # equals are taken together


def test_a_threshold_is_not_lower_than_confidence_allows():
    """Rows that happen to be right bring no lower threshold than their confidence promises."""
    rows = [(1.0, True), (0.95, True), (0.6, True)]
    assert threshold_for(rows, 0.9) == 0.95
    assert threshold_for(rows, 0.85) == 0.6
    assert threshold_for([(0.9, True)], 0.95) is None


@pytest.mark.parametrize("count", [30, 200])
def test_thresholds_of_few_rows_keep_their_promise_in_the_mean(count):
    """By count alone, the lowest threshold is a lucky one: on new rows it keeps less than it promised."""
    target, reached = 0.9, []
    for seed in range(150):
        known, other = (
            judged(overconfident(rows, factor=1.0, seed=seed + draw), 1.0) for rows, draw in ((count, 0), (300, 500))
        )
        threshold = threshold_for(known, target)
        taken = [right for confidence, right in other if threshold is not None and confidence >= threshold]
        reached += [sum(taken) / len(taken)] if taken else []
    assert len(reached) > 140
    assert sum(reached) / len(reached) >= target
    assert sum(one < target - 0.05 for one in reached) / len(reached) < 0.1


@pytest.mark.slow
def test_the_promise_of_a_threshold_holds_on_other_rows():
    calibration, heldout = (judged(overconfident(1500, factor=1.0, seed=seed), 1.0) for seed in (7, 8))
    for one in abstentions(calibration, heldout):
        assert one.share_low <= one.share <= one.share_high
        assert one.precision_low - 0.02 <= one.target <= one.precision_high + 0.02
    shares = [one.share for one in abstentions(calibration, heldout)]
    assert shares == sorted(shares, reverse=True)
    (first, *_) = abstentions([(0.9, False)], heldout)
    assert (first.threshold, first.share, first.precision) == (None, 0.0, None)


def test_a_field_is_told_before_and_after():
    raw, scaled = [(0.99, False), (0.99, True)], [(0.5, False), (0.5, True)]
    found = calibrate_field("queue", 3.0, [(0.5, True)], raw, scaled)
    assert (found.ece_before, found.ece_after) == (pytest.approx(0.49), 0.0)
    assert (found.fitted_rows, found.rows) == (1, 2)


def test_probabilities_of_a_field_are_ranked_as_scikit_learn_ranks_them():
    labels = ["billing", "hardware", "network", "none"]
    rows = overconfident(200, factor=3.0, seed=4)
    known = [(labels[right], dict(zip(labels, logits, strict=True))) for logits, right in rows]
    found = rank_field("queue", 3.0, known)
    expected = [wanted for wanted, _ in known]
    raw, scaled = (np.array([probabilities(logits, one) for logits, _ in rows]) for one in (1.0, 3.0))
    assert (found.name, found.rows) == ("queue", 200)
    assert found.auc == pytest.approx(
        roc_auc_score(expected, scaled, multi_class="ovr", average="macro", labels=labels)
    )
    assert found.log_loss_before == pytest.approx(log_loss(expected, raw, labels=labels))
    assert found.log_loss_after == pytest.approx(log_loss(expected, scaled, labels=labels))
    assert found.log_loss_after < found.log_loss_before
    assert rank_field("queue", 1.0, known[:1]).auc is None
    with pytest.raises(ValueError, match="nothing"):
        rank_field("queue", 1.0, [])

"""What the run page says about curves: scripted ones, and the same ones with noise, which must change nothing."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.hints import Code, read_curves, smoothed

STEPS = 300


def falling(step: int) -> float:
    return 0.4 + 2.0 * math.exp(-step / 60)


def by_heart(step: int) -> float:
    return 0.05 + 2.0 * math.exp(-step / 50)


def hardly(step: int) -> float:
    return 2.4 - 0.1 * step / STEPS


def exploding(step: int) -> float:
    return 0.6 + 2.0 * math.exp(-step / 30) + (0.0 if step < 150 else 3.0 * (step - 150) / 150)


def jumping(step: int) -> float:
    return falling(step) * (6.0 if step % 29 == 0 else 1.0)


def checks(curve, every: int = 30):
    return [(step, curve(step)) for step in range(0, STEPS + 1, every)]


def follows(step: int) -> float:
    return falling(step) + 0.05


def turns(step: int) -> float:
    """Lowest at step 90, then up by and by."""
    return 0.7 + 1.8 * math.exp(-step / 30) + max(0, step - 90) * 0.003


CURVES = {
    Code.LEARNING_WELL: (falling, follows),
    Code.OVERFITTING: (by_heart, turns),
    Code.RATE_TOO_LOW: (hardly, hardly),
    Code.UNSTABLE: (exploding, exploding),
}
SCRIPTED = [*((code, *curves) for code, curves in CURVES.items()), (Code.UNSTABLE, jumping, follows)]


def points(curve, steps: int = STEPS):
    return [(step, curve(step)) for step in range(1, steps + 1)]


@pytest.mark.parametrize(("code", "training", "validation"), SCRIPTED)
def test_scripted_curves_get_the_right_hint(code, training, validation):
    hint = read_curves(points(training), checks(validation), total_steps=STEPS)
    assert hint.code == code
    assert hint.title
    assert hint.why
    assert hint.next_step
    assert "%(" not in hint.why


@pytest.mark.slow
@settings(max_examples=60)
@given(
    which=st.sampled_from(SCRIPTED),
    seed=st.integers(0, 10**6),
    width=st.floats(0, 0.15),
    every=st.sampled_from([15, 30, 50]),
)
def test_noise_of_batches_does_not_change_the_hint(which, seed, width, every):
    code, training, validation = which
    chance = random.Random(seed)
    noisy = [(step, loss * math.exp(chance.gauss(0, width))) for step, loss in points(training)]
    measured = [(step, loss * (1 + chance.gauss(0, 0.01))) for step, loss in checks(validation, every)]
    assert read_curves(noisy, measured, total_steps=STEPS).code == code


def test_the_first_steps_say_nothing():
    assert read_curves([], [], total_steps=0).code == Code.TOO_EARLY
    assert read_curves(points(falling, 10), checks(follows)[:1], total_steps=STEPS).code == Code.TOO_EARLY
    # A warm-up begins slowly: that is no sign of a low learning rate yet.
    assert read_curves(points(hardly, 40), [], total_steps=STEPS).code == Code.TOO_EARLY


def test_a_short_run_is_read_when_it_has_ended():
    short = [(step, 2.5 / step) for step in range(1, 11)]
    assert read_curves(short, [], total_steps=10).code == Code.TOO_EARLY
    ended = read_curves(short, [], total_steps=10, has_ended=True)
    assert (ended.code, ended.next_step) == (Code.LEARNING_WELL, "Look at the quality report.")


def test_overfitting_names_the_step_to_go_back_to():
    hint = read_curves(points(by_heart), checks(turns), total_steps=STEPS)
    assert hint.since_step == 90
    assert "step 90" in hint.why


def test_a_loss_that_is_no_number_is_unstable():
    assert read_curves([(1, 2.0), (2, math.nan)], [], total_steps=STEPS).code == Code.UNSTABLE


def test_a_model_that_knew_it_before_is_not_told_to_learn_faster():
    known = [(step, 0.05 + 0.02 * (step % 3)) for step in range(1, STEPS + 1)]
    assert read_curves(known, [(0, 0.06), (STEPS, 0.05)], total_steps=STEPS).code == Code.LEARNING_WELL


def test_without_validation_rows_training_alone_is_read():
    assert read_curves(points(falling), [], total_steps=STEPS).code == Code.LEARNING_WELL


@given(st.lists(st.floats(0, 100), min_size=1, max_size=50), st.floats(0, 0.98))
@settings(max_examples=50)
def test_smoothing_starts_at_the_first_value_and_stays_between_the_extremes(values, weight):
    found = smoothed(values, weight)
    assert found[0] == pytest.approx(values[0])
    assert all(min(values) - 1e-6 <= one <= max(values) + 1e-6 for one in found)


def test_smoothing_follows_the_formula():
    assert smoothed([1.0, 0.0], 0.5) == pytest.approx([1.0, 0.25 / 0.75])

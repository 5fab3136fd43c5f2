"""Which values a sweep tries, and which runs it gives up."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.hyperparameters import Hyperparameters
from experiments.sweep_plan import (
    MOST_RUNS,
    BadSweep,
    Range,
    checked_values,
    combinations,
    halving_share,
    is_halved_away,
    is_losing,
    read_values,
    rungs,
    with_values,
)


def test_a_grid_makes_every_combination_once():
    values = read_values("learning_rate: 0.0005, 1e-3\n\n lora_r: 8, 16, 16\nrslora: yes, no")
    found = combinations(values, method="grid")
    assert len(found) == 8
    assert {"learning_rate": 0.001, "lora_r": 8, "rslora": True} in found
    assert with_values(Hyperparameters(), found[0]).lora_r == 8


def test_random_draws_are_different_within_range_and_the_same_for_the_same_seed():
    values = read_values("learning_rate: 1e-4..1e-2\nlora_r: 4..64\nschedule: cosine, linear")
    found = combinations(values, method="random", runs=20, seed=7)
    assert found == combinations(values, method="random", runs=20, seed=7)
    assert len({tuple(one.items()) for one in found}) == 20
    assert all(1e-4 <= one["learning_rate"] <= 1e-2 and 4 <= one["lora_r"] <= 64 for one in found)
    # Ends far apart are drawn by orders of magnitude: half of the draws lie below the geometric middle.
    assert 4 <= sum(one["learning_rate"] < 1e-3 for one in found) <= 16
    assert all(isinstance(one["lora_r"], int) for one in found)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "learning_rate 0.1",
        "nonsense: 1, 2",
        "lora_r: 9..3",
        "lora_r: x..y",
        "lora_r: 1, 2\nlora_r: 3, 4",
        "epochs: nan..3",
    ],
)
def test_nonsense_is_refused_with_a_sentence(text):
    with pytest.raises(BadSweep, match=r"\w+ \w+"):
        read_values(text)


@pytest.mark.parametrize(
    ("values", "method", "runs"),
    [
        ({"lora_r": [8]}, "grid", 0),
        ({"lora_r": [8, 8]}, "grid", 0),
        ({"lora_r": list(range(1, MOST_RUNS + 2))}, "grid", 0),
        ({"lora_r": Range(1, 9)}, "grid", 0),
        ({"lora_r": [1, 2]}, "random", 3),
        ({"lora_r": [1, 2]}, "random", 1),
        ({"problem_type": ["chat", "regression"]}, "grid", 0),
    ],
)
def test_sweeps_that_make_no_sense_are_refused(values, method, runs):
    with pytest.raises(BadSweep):
        combinations(values, method=method, runs=runs)


def course(*losses: float, upto: float = 1.0):
    return [(upto * (at + 1) / len(losses), loss) for at, loss in enumerate(losses)]


GOOD, FAIR, BAD = course(2.0, 1.0, 0.5, 0.4), course(2.1, 1.2, 0.7, 0.5), course(2.4, 2.3, 2.2, 2.1)


def test_the_loser_is_stopped_and_the_winner_is_not():
    assert is_losing(BAD[:2], [GOOD, FAIR])
    assert not is_losing(GOOD[:2], [BAD, FAIR])


def test_nobody_is_stopped_before_there_is_something_to_compare():
    assert not is_losing(BAD[:1], [GOOD, FAIR])
    assert not is_losing(BAD[:2], [GOOD])
    assert not is_losing(BAD[:2], [GOOD, FAIR[:1]])
    assert not is_losing(course(2.4, 2.3, upto=0.2), [GOOD, FAIR])
    assert not is_losing([], [GOOD, FAIR])


@settings(max_examples=60)
@given(st.lists(st.lists(st.floats(0.01, 9), min_size=4, max_size=4), min_size=3, max_size=6), st.integers(1, 4))
def test_the_best_of_all_is_never_stopped(losses, upto):
    courses = [course(*one) for one in losses]
    best = min(courses, key=lambda one: min(loss for _share, loss in one[:upto]))
    assert not is_losing(best[:upto], [one for one in courses if one is not best])


@pytest.mark.parametrize("given", [{}, {"nonsense": [1]}, {"lora_r": []}, {"lora_r": ["9..3"]}])
def test_values_as_json_are_refused_with_a_sentence(given):
    with pytest.raises(BadSweep, match=r"\w+ \w+"):
        checked_values(given)


def test_values_as_json_are_lists_and_ranges():
    assert checked_values({"lora_r": ["4..64"], "schedule": ["cosine", "linear"], "seed": 7}) == {
        "lora_r": Range(4.0, 64.0),
        "schedule": ["cosine", "linear"],
        "seed": [7],
    }


def test_rungs_leave_one_of_eight():
    assert rungs(8) == (1 / 8, 1 / 4, 1 / 2)
    assert rungs(2) == (1 / 2,)
    assert rungs(50)[0] == 1 / 32
    # 8 · 1/8 + 4 · 1/8 + 2 · 1/4 + 1 · 1/2 of eight whole runs
    assert halving_share(8) == pytest.approx(2.5 / 8)
    assert all(0 < halving_share(count) < 1 for count in range(2, 51))


def run_halving(orders: list[list[float]]) -> list[float]:
    """Let runs come to their checks one after the other, the last check first for none; return how far each came."""
    marks = (0.125, 0.25, 0.5, 1.0)
    courses: list[list[tuple[float, float]]] = [[] for _ in orders]
    stopped: set[int] = set()
    for position, mark in enumerate(marks):
        for number, losses in enumerate(orders):
            if number in stopped:
                continue
            courses[number].append((mark, losses[position]))
            others = [course for other, course in enumerate(courses) if other != number]
            if mark < 1 and is_halved_away(courses[number], others, runs=len(orders)):
                stopped.add(number)
    return [course[-1][0] for course in courses]


@given(st.permutations(range(8)))
def test_the_best_run_always_comes_to_its_end_and_the_worst_half_does_not(order):
    reached = run_halving([[float(loss)] * 4 for loss in order])
    assert reached[order.index(0)] == 1.0
    assert sum(far == 1.0 for far in reached) < 8
    assert not is_halved_away([(0.1, 9.0)], [[(0.1, 1.0)]] * 3, runs=8), "no rung is reached yet"
    assert not is_halved_away([(0.5, 1.0)], [[(0.5, 1.0)]] * 3, runs=8), "equals are no losers"

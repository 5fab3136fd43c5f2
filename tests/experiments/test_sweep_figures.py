"""What a sweep found, value by value."""

from __future__ import annotations

from itertools import pairwise

from experiments.sweep_figures import Outcome, by_value
from portal.display import numbers, shapes

LABELS = {"lora_r": "Rank", "schedule": "Schedule"}


def outcome(number: int, rank: int, schedule: str, loss: float | None, match: float | None = None, *, best=False):
    values = {"lora_r": rank, "schedule": schedule}
    return Outcome(number, values, {"lora_r": str(rank), "schedule": schedule.title()}, loss, match, best)


OUTCOMES = [
    outcome(1, 16, "linear", 0.5, 0.8, best=True),
    outcome(2, 16, "cosine", 0.7, 0.6),
    outcome(3, 8, "linear", 0.9),
    outcome(4, 8, "cosine", None),
]


def test_each_value_has_a_line_with_the_best_and_the_mean_of_its_runs():
    rank, schedule = by_value(LABELS, OUTCOMES)
    assert [(line.value, line.runs, line.best_loss, line.mean_loss) for line in rank.lines] == [
        ("8", 1, 0.9, 0.9), ("16", 2, 0.5, 0.6),
    ]  # fmt: skip
    assert [line.best_exact_match for line in rank.lines] == [None, 0.8]
    assert [(line.value, line.runs) for line in schedule.lines] == [("Cosine", 1), ("Linear", 2)]
    assert rank.loss is not None
    assert [(dot.x, dot.is_marked) for dot in rank.loss.dots] == [("25", False), ("75", True), ("75", False)]
    assert rank.loss.dots[1].label == "#1: 16, 0.5000"
    assert rank.loss.ticks == [("25", "8"), ("75", "16")]


def test_one_run_alone_is_nothing_to_compare():
    assert by_value(LABELS, OUTCOMES[:1]) == []
    assert by_value(LABELS, [OUTCOMES[3]] * 3) == []


def test_many_numbers_are_drawn_to_scale_by_orders_of_magnitude():
    many = [
        Outcome(at, {"learning_rate": 10.0**-at}, {"learning_rate": str(10.0**-at)}, at / 10, None, False)
        for at in range(1, 12)
    ]
    [figures] = by_value({"learning_rate": "Learning rate"}, many)
    assert figures.exact_match is None
    assert figures.loss is not None
    places = [float(dot.x) for dot in figures.loss.dots]
    steps = [round(after - before, 3) for before, after in pairwise(places)]
    assert places == sorted(places)
    assert len(set(steps)) == 1
    assert len(figures.loss.ticks) == 2
    assert len(figures.lines) == 11


def test_equal_figures_stand_in_the_middle():
    drawn = shapes.scatter(
        [{"x": at, "y": 0.5, "label": "", "is_marked": False} for at in (0, 1)],
        places=["a", "b"],
        write=numbers.percent,
    )
    assert drawn is not None
    assert [dot.y for dot in drawn.dots] == ["50", "50"]
    assert drawn.levels == ["50.0%"]
    assert shapes.scatter([], places=None, write=numbers.percent) is None

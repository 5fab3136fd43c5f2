"""Scoring allowed values looks ahead, and gives up early what would take too long."""

from __future__ import annotations

import math
from typing import Any

import pytest

from gpu_worker.evaluator import bound
from gpu_worker.evaluator.choices import ChosenAnswer


class Quiet:
    """Takes events and never asks to stop."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **more: None


def test_too_many_values_are_given_up_after_the_first_rows(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(bound.time, "monotonic", lambda: now[0])
    told = bound._Progress(Quiet(), Quiet(), 100, 60.0)
    answer = ChosenAnswer("{}", {})
    for _row in range(2):
        now[0] += 5
        assert told.after(answer) is answer
    now[0] += 5
    with pytest.raises(bound._TooSlow) as slow:
        told.after(answer)
    assert slow.value.needed_s == pytest.approx(500)


def test_without_a_limit_all_rows_are_scored(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(bound.time, "monotonic", lambda: now[0])
    told = bound._Progress(Quiet(), Quiet(), 10, math.inf)
    for _row in range(10):
        now[0] += 1000
        told.after(ChosenAnswer("{}", {}))


def test_calibration_rows_are_scored_only_while_there_is_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(bound.time, "monotonic", lambda: now[0])
    told = bound._Progress(Quiet(), Quiet(), 100, 60.0, least=10)
    done = 0
    while not told.is_time_up:
        now[0] += 5
        told.after(ChosenAnswer("{}", {}))
        done += 1
    assert done == 13, "what has to be done is done, and a little more than a minute is used"

"""The time that is left: right to 15 % after a tenth of the steps, whatever a run spends its time on."""

from __future__ import annotations

import random

import pytest

from gpu_worker.trainer import loop
from gpu_worker.trainer.samples import Sampler
from tests.gpu_worker.trainer.jobs import run_here, ticket_rows, write_job


class Clock:
    """A clock that stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    """Steps take time by their tokens, give or take a third; checks of the loss and their answers take some, too."""
    made, chance = Clock(), random.Random(3)
    monkeypatch.setattr(loop, "time", made)
    accumulate, count = loop.TrainingLoop._accumulate_batch, loop.TrainingLoop._count_validation

    def step(self, batch, weight):
        made.now += sum(self._lengths[row] for row in batch) * 0.01 * chance.uniform(0.67, 1.33)
        return accumulate(self, batch, weight)

    def check(self, _seconds):
        made.now += 2.0
        count(self, 2.0)

    def sample(_self, _place, _limit_s):
        made.now += 3.0

    monkeypatch.setattr(loop.TrainingLoop, "_accumulate_batch", step)
    monkeypatch.setattr(loop.TrainingLoop, "_count_validation", check)
    monkeypatch.setattr(Sampler, "sample", sample)
    return made


def told(clock: Clock, monkeypatch) -> dict[int, tuple[float, float]]:
    """Return a dict that fills with {step: (time, estimate)}."""
    found: dict[int, tuple[float, float]] = {}
    place = loop.TrainingLoop._report_step

    def report(self, *figures):
        found[self.progress.step] = clock.now, self._seconds_to_the_end()
        place(self, *figures)

    monkeypatch.setattr(loop.TrainingLoop, "_report_step", report)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("limit", [None, 1.0])
def test_the_time_left_is_right_to_15_percent_after_a_tenth_of_the_steps(
    tmp_path, base_model, clock, monkeypatch, limit
):
    found = told(clock, monkeypatch)
    rows = {"train": ticket_rows(40), "validation": ticket_rows(4, seed=1)}
    chosen = {"epochs": 5, "batch_size": 2, "evaluations_per_epoch": 2, "max_minutes": limit}
    code, events = run_here(write_job(tmp_path, base_model, **rows, **chosen))
    assert code == 0
    last = max(found)
    steps = last if limit else 100
    whole = clock.now
    late = {step: pair for step, pair in found.items() if step > steps / 10}
    assert len(late) >= steps * 0.85
    off = {step: abs(now + left - whole) / whole for step, (now, left) in late.items()}
    assert max(off.values()) < 0.15, off
    assert [event["step"] for event in events if "eta_s" in event] == sorted(found), "each step tells"

"""The training benchmark compares like with like: same rows, same order, same loss."""

import pytest

from gpu_worker.benchmarks import training
from gpu_worker.benchmarks.training import Measurement, measure, render
from tests.gpu_worker.trainer.jobs import ticket_rows


def measurement(subject: str, speed: float) -> Measurement:
    return Measurement(subject, (speed - 1, speed, speed + 1), 0.5, 0.625, 2_000_000_000, 4.2, 3.25)


def test_the_table_takes_the_stock_loop_as_one():
    speeds = dict(zip(training.SUBJECTS, (100, 130, 210), strict=True))
    rounds = [measurement(subject, speed + shift) for shift in (-5, 0, 5) for subject, speed in speeds.items()]
    text = render(rounds, source="demo tickets", steps=24, rounds=3)
    lines = text.splitlines()
    assert text.startswith("## Training")
    assert lines[-3].startswith(
        "| transformers Trainer + PEFT | 100 (95–105) | 1.00 | 0.5000 | 0.6250 | 2,000 | 4.2 | 3.25 |"
    )
    assert "| 210 (205–215) | 2.10 |" in lines[-1]


@pytest.mark.slow
def test_all_subjects_learn_the_same(base_model):
    conversations = [row["messages"] for row in ticket_rows(training.VALIDATION_ROWS + 6 * training.BATCH_SIZE)]
    stock, general, fast = (measure(subject, conversations, base_model) for subject in training.SUBJECTS)
    assert general.train_loss == pytest.approx(stock.train_loss, abs=6e-4)
    assert fast.train_loss == pytest.approx(general.train_loss, rel=1e-4)
    assert fast.validation_loss == pytest.approx(stock.validation_loss, rel=1e-4)

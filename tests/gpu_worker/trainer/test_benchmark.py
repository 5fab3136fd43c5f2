"""The training benchmark compares like with like: same rows, same order, same loss."""

import pytest

from gpu_worker.benchmarks import llamafactory_peer, training, training_limit
from gpu_worker.benchmarks.training import Measurement, measure, measure_limit, render
from tests.forked import forked_subprocess
from tests.gpu_worker.trainer.jobs import ticket_rows


@pytest.fixture
def quick_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of their own that need not import the large libraries again."""
    monkeypatch.setattr(training, "subprocess", forked_subprocess)


def measurement(subject: str, speed: float) -> Measurement:
    return Measurement(subject, (speed - 1, speed, speed + 1), 0.5, 0.625, 2_000_000_000, 4.2, 3.25)


def test_the_table_takes_the_stock_loop_as_one():
    speeds = dict(zip(training.SUBJECTS, (100, 130, 180, 210, 300), strict=True))
    rounds = [measurement(subject, speed + shift) for shift in (-5, 0, 5) for subject, speed in speeds.items()]
    text = render(rounds, source="demo tickets", steps=24, rounds=3)
    lines = text.splitlines()
    assert text.startswith("## Training")
    assert lines[-5].startswith(
        "| transformers Trainer + PEFT | 100 (95–105) | 1.00 | 0.5000 | 0.6250 | 2,000 | 4.2 | 3.25 |"
    )
    assert "| 210 (205–215) | 2.10 |" in lines[-2]


@pytest.mark.slow
@pytest.mark.usefixtures("quick_starts")
def test_all_subjects_learn_the_same(base_model, tmp_path):
    conversations = [row["messages"] for row in ticket_rows(training.VALIDATION_ROWS + 6 * training.BATCH_SIZE)]
    stock, general, fast, compiled, eight_bit = (
        measure(subject, conversations, base_model, cache=tmp_path) for subject in training.SUBJECTS
    )
    assert general.train_loss == pytest.approx(stock.train_loss, abs=6e-4)
    assert fast.train_loss == pytest.approx(general.train_loss, rel=1e-4)
    assert compiled.train_loss == pytest.approx(fast.train_loss, rel=1e-4)
    assert fast.validation_loss == pytest.approx(stock.validation_loss, rel=1e-4)
    assert eight_bit.validation_loss == pytest.approx(stock.validation_loss, rel=0.03)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_starts")
def test_the_share_of_the_limit_counts_all_time_and_all_products(base_model, tmp_path):
    conversations = [row["messages"] for row in ticket_rows(training.VALIDATION_ROWS + 8 * training.BATCH_SIZE)]
    name = training.LIMITED[1]
    limit = measure_limit(name, conversations, base_model, cache=tmp_path)
    assert sum(limit.groups.values()) == pytest.approx(limit.seconds, rel=1e-3)
    assert 0 < limit.share < 1
    # Two layers of 64 → 128 → 64 with 4 and 2 heads of 16: qkv 8,192, output 4,096, gate and up 16,384, down 8,192
    # weights each; forward and backward, 2 FLOP a weight, less the lowest layer's way back to its input, and the last
    # layer's upper part on answer tokens only. A shared beginning is computed once.
    all_tokens = limit.flop["int8"] / (2 * 2 * 2 * 36_864 - 2 * 8_192)
    assert 0.2 * limit.tokens < all_tokens < limit.tokens
    text = training_limit.render({name: limit})
    assert "products with frozen weights" in text
    assert f"{limit.share:.0%}" in text


def test_a_peer_that_cannot_be_installed_is_named_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(llamafactory_peer.sys, "executable", "/no/python")
    _python, reason = llamafactory_peer.install(tmp_path / "peer", progress=lambda _text: None)
    assert "/no/python" in reason

"""Which rows in which step: every row once an epoch, the same for the same seed, similar lengths together."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets_app import demo_tickets
from datasets_app.demo_tickets import DEMO_SYSTEM_PROMPT
from experiments.hyperparameters import Hyperparameters
from experiments.trials import VALIDATION_SHARE
from gpu_worker.trainer.plan import FORWARD_COST, FREE_VALIDATION_TOKENS, LOSSES_SHARE, TrainingPlan, micro_batches

lengths = st.lists(st.integers(2, 500), min_size=1, max_size=300)
sizes = st.integers(1, 20)


@given(lengths, sizes, st.integers(0, 5))
def test_an_epoch_holds_every_row_once_in_nearly_equal_batches(lengths, size, epoch):
    plan = TrainingPlan(lengths, Hyperparameters(batch_size=size))
    batches = [plan.batch(epoch * plan.steps_per_epoch + i) for i in range(plan.steps_per_epoch)]
    assert Counter(row for batch in batches for row in batch) == Counter(range(len(lengths)))
    assert max(map(len, batches)) <= size
    assert max(map(len, batches)) - min(map(len, batches)) <= 1


@given(lengths, st.integers(0, 100))
def test_the_order_is_a_function_of_seed_and_step_alone(lengths, step):
    plan, other = (TrainingPlan(lengths, Hyperparameters(seed=3)) for _ in range(2))
    other.batch(step + 50)
    assert plan.batch(step) == other.batch(step)


def test_seeds_and_epochs_give_different_orders():
    lengths = list(range(2, 102))
    plan, other = TrainingPlan(lengths, Hyperparameters(seed=1)), TrainingPlan(lengths, Hyperparameters(seed=2))
    assert plan.batch(0) != other.batch(0)
    assert plan.batch(0) != plan.batch(plan.steps_per_epoch)


def test_padding_is_small():
    lengths = [30 + (37 * i) % 200 for i in range(1000)]
    plan = TrainingPlan(lengths, Hyperparameters(batch_size=8))
    padded = sum(8 * max(lengths[row] for row in plan.batch(step)) for step in range(plan.steps_per_epoch))
    assert padded / sum(lengths) < 1.1


@pytest.mark.parametrize("recipe_batch", [8, 16, 32])
def test_padding_of_support_tickets_is_small(renderer, recipe_batch):
    """Two languages, tickets of one sentence and of six: every micro-batch padded to its longest row."""
    asked = [{"role": "system", "content": DEMO_SYSTEM_PROMPT}]
    lengths = [
        len(renderer.row([*asked, user(ticket.text), answer(ticket.response)]).token_ids)
        for ticket in demo_tickets.generate(7, 1000)
    ]
    assert max(lengths) > 2 * min(lengths)
    plan = TrainingPlan(lengths, Hyperparameters(batch_size=recipe_batch))
    parts = [
        part
        for step in range(plan.steps_per_epoch)
        for part in micro_batches(plan.batch(step), lengths, Hyperparameters().micro_batch_size)
    ]
    computed = sum(len(part) * max(lengths[row] for row in part) for part in parts)
    assert sorted(row for part in parts for row in part) == list(range(1000))
    assert 1 - sum(lengths) / computed <= 0.10


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def test_lengths_may_be_left_out_of_the_order():
    rows = TrainingPlan([30, 200] * 50, Hyperparameters(batch_size=10, group_by_length=False))
    assert all(len({row % 2 for row in rows.batch(step)}) == 2 for step in range(10))


@given(lengths, sizes)
def test_micro_batches_hold_the_batch(lengths, size):
    rows = list(range(len(lengths)))
    parts = micro_batches(rows, lengths, size)
    assert sorted(row for part in parts for row in part) == rows
    assert all(0 < len(part) <= size for part in parts)


@pytest.mark.parametrize(
    ("chosen", "total"),
    [({"epochs": 2}, 26), ({"epochs": 0.5}, 6), ({"epochs": 0.01}, 1), ({"epochs": 9, "max_steps": 5}, 5)],
)
def test_total_steps(chosen, total):
    assert TrainingPlan([10] * 100, Hyperparameters(batch_size=8, **chosen)).total_steps == total


@pytest.mark.parametrize(
    ("per_epoch", "epochs", "marks"),
    [
        (2, 2, {0, 10, 20, 30, 40}),
        (4, 1, {0, 5, 10, 15, 20}),
        (0, 3, {0, 60}),
        (0.5, 4, {0, 40, 80}),
        (3, 1, {0, 7, 13, 20}),
    ],
)
def test_validation_at_start_end_and_evenly_between(per_epoch, epochs, marks):
    chosen = Hyperparameters(batch_size=5, epochs=epochs, evaluations_per_epoch=per_epoch)
    assert TrainingPlan([10] * 100, chosen).validation_steps() == marks


@pytest.mark.parametrize(("schedule", "end"), [("linear", 0.0), ("cosine", 0.0), ("constant", 1.0)])
def test_learning_rate_rises_then_falls(schedule, end):
    chosen = Hyperparameters(learning_rate=1.0 / 16, batch_size=1, epochs=1, schedule=schedule, warmup_share=0.1)
    plan = TrainingPlan([10] * 1000, chosen)
    rates = [plan.learning_rate(step) * 16 for step in range(1000)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[99] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(end, abs=2e-3)
    assert rates[100:] == sorted(rates[100:], reverse=True)


def test_learning_rate_may_end_above_zero():
    chosen = Hyperparameters(learning_rate=0.01, batch_size=1, epochs=1, final_learning_rate_share=0.25)
    assert TrainingPlan([10] * 1000, chosen).learning_rate(999) == pytest.approx(0.0025, rel=0.01)


def losses_share(train, validation, chosen):
    plan = TrainingPlan(train, chosen, validation)
    measured = sum(validation[row] for row in plan.validation_rows) * len(plan.validation_steps())
    return measured * FORWARD_COST / (plan.total_steps * plan.tokens_per_step + measured * FORWARD_COST)


@given(
    st.lists(st.integers(20, 400), min_size=1, max_size=120),
    st.builds(lambda rows, length: [length] * rows, st.integers(1, 300), st.integers(20, 400)),
    st.integers(1, 10),
)
def test_validation_losses_stay_within_their_share_however_few_rows_are_learned(train, validation, per_epoch):
    chosen = Hyperparameters(evaluations_per_epoch=per_epoch)
    plan = TrainingPlan(train, chosen, validation)
    steps = plan.validation_steps()
    assert {0, plan.total_steps} <= steps <= TrainingPlan(train, chosen).validation_steps()
    assert len(set(plan.validation_rows)) == len(plan.validation_rows) > 0
    tokens = sum(validation[row] for row in plan.validation_rows) * len(steps)
    assert losses_share(train, validation, chosen) <= LOSSES_SHARE + 1e-9 or tokens <= FREE_VALIDATION_TOKENS


def test_with_few_training_and_many_validation_rows_fewer_are_measured_less_often():
    train, validation, chosen = [85] * 60, [85] * 500, Hyperparameters()
    plan = TrainingPlan(train, chosen, validation)
    assert (len(plan.validation_rows), sorted(plan.validation_steps())) == (16, [0, 12, 24])
    assert losses_share(train, validation, chosen) <= VALIDATION_SHARE
    many = TrainingPlan([85] * 10_000, chosen, [85] * 100)
    assert (len(many.validation_rows), len(many.validation_steps())) == (100, 7), "there is time for all"
    few = TrainingPlan([40] * 12, chosen, [40] * 4)
    assert (len(few.validation_rows), few.validation_steps()) == (4, TrainingPlan([40] * 12, chosen).validation_steps())

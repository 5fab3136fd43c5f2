"""Invariants of learning, the same for both ways: what is learned, where, and that both compute the same."""

import pytest
import torch
from torch.nn import functional

from datasets_app.learned_rows import EncodedRow
from experiments.hyperparameters import Hyperparameters
from gpu_worker.trainer.errors import TrainingError
from gpu_worker.trainer.fast.learner import FastLearner
from gpu_worker.trainer.general import GeneralLearner
from gpu_worker.trainer.learner import Learner
from gpu_worker.trainer.optimizers import AdamW
from gpu_worker.trainer.rows import encode_file
from gpu_worker.trainer.spec import read_spec
from tests.gpu_worker.trainer.jobs import ticket_rows, write_job

pytestmark = pytest.mark.slow


@pytest.fixture
def spec(tmp_path, base_model):
    def spec(**chosen):
        return read_spec(write_job(tmp_path, base_model, train=ticket_rows(8), **chosen))

    return spec


@pytest.fixture
def rows(tmp_path, base_model, renderer) -> list[EncodedRow]:
    job = write_job(tmp_path / "rows", base_model, train=ticket_rows(8))
    return list(encode_file(job.train_rows, renderer, Hyperparameters()).rows)


def learner(kind: str, spec) -> Learner:
    return FastLearner(spec) if kind == "fast" else GeneralLearner(spec, device="cpu", why="test")


def disturb(*learners: Learner) -> None:
    """Give all learners the same adapter that is not a no-op."""
    chance = torch.Generator().manual_seed(5)
    start = learners[0].parameters.export(learners[0].parameters.values)
    for name in sorted(start):
        start[name] += 0.05 * torch.randn(start[name].shape, generator=chance)
    for one in learners:
        one.parameters.load(one.parameters.values, start)


@pytest.fixture
def plain_loss(base_model):
    """The summed loss by transformers alone: one row at a time, all logits, labels shifted by hand."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.float32).eval()

    def plain_loss(rows) -> float:
        total = 0.0
        for row in rows:
            ids = torch.tensor([row.token_ids])
            labels = ids.clone()
            labels[:, : row.prompt_length] = -100
            with torch.no_grad():
                logits = model(input_ids=ids).logits
            total += float(functional.cross_entropy(logits[0, :-1], labels[0, 1:], reduction="sum", ignore_index=-100))
        return total

    return plain_loss


@pytest.mark.parametrize("kind", ["fast", "general"])
def test_fresh_adapter_changes_nothing_and_loss_is_on_answers_only(kind, spec, rows, plain_loss):
    assert learner(kind, spec()).loss_sum(rows) == pytest.approx(plain_loss(rows), rel=1e-5)


@pytest.mark.parametrize("kind", ["fast", "general"])
def test_learning_the_prompt_too_is_the_loss_of_the_whole_row(kind, spec, tmp_path, base_model, renderer, plain_loss):
    ordered = spec(train_on_prompt=True)
    path = write_job(tmp_path / "rows", base_model, train=ticket_rows(8)).train_rows
    whole = list(encode_file(path, renderer, ordered.hyperparameters).rows)
    one = learner(kind, ordered)
    assert one.loss_sum(whole) == pytest.approx(plain_loss(whole), rel=1e-5)
    assert one.loss_sum(whole) > 1.5 * one.loss_sum(list(encode_file(path, renderer, Hyperparameters()).rows))


def test_layers_named_by_a_person_are_the_same_ones_both_ways(spec, rows):
    ordered = spec(lora_targets="own", lora_target_names="v_proj, down_proj", lora_r=4)
    fast, general = learner("fast", ordered), learner("general", ordered)
    names = {slot.name.split(".")[-3] for slot in fast.parameters.slots}
    assert names == {slot.name.split(".")[-3] for slot in general.parameters.slots} == {"v_proj", "down_proj"}
    disturb(fast, general)
    assert fast.accumulate(rows, 1.0) == pytest.approx(general.accumulate(rows, 1.0), rel=1e-5)
    assert fast.outcome.config()["target_modules"] == general.outcome.config()["target_modules"]


@pytest.mark.parametrize("kind", ["fast", "general"])
@pytest.mark.parametrize("name", ["lm_head", "c_attn", "q_proj2"])
def test_layers_that_the_base_model_has_not_are_refused_with_those_it_has(kind, name, spec):
    with pytest.raises(TrainingError, match=f"'{name}'.*: down_proj, gate_proj, k_proj") as caught:
        learner(kind, spec(lora_targets="own", lora_target_names=f"q_proj, {name}"))
    assert caught.value.code == "bad_settings"


@pytest.mark.parametrize("kind", ["fast", "general"])
def test_micro_batches_of_four_equal_one_of_eight(kind, spec, rows):
    one = learner(kind, spec())
    disturb(one)
    whole = one.accumulate(rows, 1 / 100)
    gradients = one.parameters.gradients.clone()
    one.parameters.gradients.zero_()
    parts = one.accumulate(rows[:4], 1 / 100) + one.accumulate(rows[4:], 1 / 100)
    assert parts == pytest.approx(whole, rel=1e-5)
    assert torch.allclose(one.parameters.gradients, gradients, atol=1e-6)


@pytest.mark.parametrize("kind", ["fast", "general"])
def test_gradient_agrees_with_the_change_of_the_loss(kind, spec, rows):
    """Along the gradient g, the loss changes by |g|² per unit: numerical differentiation in one direction."""
    one = learner(kind, spec())
    disturb(one)
    one.accumulate(rows, 1.0)
    gradients, values = one.parameters.gradients.clone(), one.parameters.values.clone()
    direction = gradients / gradients.norm()
    with torch.no_grad():
        one.parameters.values.copy_(values + 2e-3 * direction)
        above = one.loss_sum(rows)
        one.parameters.values.copy_(values - 2e-3 * direction)
        below = one.loss_sum(rows)
    assert (above - below) / 4e-3 == pytest.approx(float(gradients.norm()), rel=0.02)


@pytest.mark.parametrize("targets", ["all-linear", "attention", "query-value"])
@pytest.mark.parametrize("most_kept_keys", [160, 1])
def test_fast_equals_general_over_steps_with_accumulation(monkeypatch, spec, rows, targets, most_kept_keys):
    monkeypatch.setattr("gpu_worker.trainer.fast.attention.MOST_KEPT_KEYS", most_kept_keys)
    ordered = spec(lora_targets=targets, lora_r=4, lora_alpha=6.5)
    histories = []
    for kind in ("fast", "general"):
        one = learner(kind, ordered)
        optimizer = AdamW(one.parameters, weight_decay=0.01)
        history = []
        for step in range(5):
            batch = [rows[step % 3 :][:3], rows[4:8]]
            label_tokens = sum(row.label_tokens for part in batch for row in part)
            history.append(sum(one.accumulate(part, 1 / label_tokens) for part in batch) / label_tokens)
            history.append(optimizer.clip(0.5))
            optimizer.update(5e-3)
        history.append(one.loss_sum(rows))
        histories.append(history)
    fast, general = histories
    assert fast == pytest.approx(general, rel=1e-4)
    assert general[-1] < general[0] * sum(row.label_tokens for row in rows)


def test_rows_without_a_shared_beginning_are_computed_too(spec):
    """Nothing shared, a single row, a one-word prompt: the borders of packing."""
    ordered = spec()
    fast, general = learner("fast", ordered), learner("general", ordered)
    disturb(fast, general)
    odd = [EncodedRow(tuple(range(10, 10 + n)), n // 2) for n in (2, 5, 40)] + [EncodedRow((9, 8, 7), 1)]
    for rows in (odd, odd[:1], [odd[2]] * 3):
        assert fast.accumulate(rows, 1.0) == pytest.approx(general.accumulate(rows, 1.0), rel=1e-5)
    ours, theirs = (one.parameters.export(one.parameters.gradients) for one in (fast, general))
    assert all(torch.allclose(ours[name], theirs[name], rtol=1e-3, atol=1e-4) for name in ours)


def test_models_with_a_head_of_another_kind_are_computed_whole(spec, rows):
    """Where decoder and head do not give the model's logits, the whole model is asked."""
    one = GeneralLearner(spec(), device="cpu", why="test")
    expected = one.loss_sum(rows)
    assert one._head is not None
    one._head = None
    assert one.loss_sum(rows) == pytest.approx(expected, rel=1e-5)


def test_dropout_gives_other_losses_in_training_and_none_in_validation(spec, rows):
    one = GeneralLearner(spec(lora_dropout=0.5), device="cpu", why="test")
    disturb(one)
    assert one.loss_sum(rows) == one.loss_sum(rows)
    assert one.accumulate(rows, 1.0) != one.accumulate(rows, 1.0)


@pytest.mark.parametrize("chosen", [{"precision": "bf16"}, {"gradient_checkpointing": True}])
def test_other_ways_to_compute_stay_near(spec, rows, chosen):
    plain = GeneralLearner(spec(), device="cpu", why="test")
    other = GeneralLearner(spec(**chosen), device="cpu", why="test")
    assert other.accumulate(rows, 0.01) == pytest.approx(plain.accumulate(rows, 0.01), rel=0.02)
    assert functional.cosine_similarity(other.parameters.gradients, plain.parameters.gradients, dim=0) > 0.99


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_compressed_base_models_learn(spec, rows, quantization):
    pytest.importorskip("bitsandbytes")
    one = GeneralLearner(spec(quantization=quantization), device="cpu", why="test")
    optimizer = AdamW(one.parameters, weight_decay=0)
    label_tokens = sum(row.label_tokens for row in rows)
    history = []
    for _ in range(4):
        history.append(one.accumulate(rows, 1 / label_tokens))
        optimizer.clip(1.0)
        optimizer.update(5e-3)
    assert history[-1] < history[0]
    assert history[0] == pytest.approx(FastLearner(spec()).loss_sum(rows), rel=0.1)

"""The general path computes the same packed or padded, in one micro-batch or many, remembering layers or not."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from experiments.hyperparameters import Hyperparameters
from gpu_worker.trainer import general, room
from gpu_worker.trainer.general import GeneralLearner
from gpu_worker.trainer.layouts import Packing
from gpu_worker.trainer.plan import micro_batches
from gpu_worker.trainer.room import Remembered
from gpu_worker.trainer.rows import encode_file
from gpu_worker.trainer.spec import read_spec
from tests.gpu_worker.trainer.jobs import losses, run_here, ticket_rows, write_job

pytestmark = pytest.mark.slow


@pytest.fixture
def rows(tmp_path, base_model, renderer):
    job = write_job(tmp_path / "rows", base_model, train=ticket_rows(6))
    return list(encode_file(job.train_rows, renderer, Hyperparameters()).rows)


@pytest.fixture
def learner(tmp_path, base_model):
    spec = read_spec(write_job(tmp_path, base_model, train=ticket_rows(6), lora_r=4))
    one = GeneralLearner(spec, device="cpu", why="test")
    noise = torch.randn(one.parameters.count, generator=torch.Generator().manual_seed(5))
    one.parameters.values.add_(0.05 * noise)
    return one


def learned(learner, rows) -> tuple[float, torch.Tensor]:
    learner.parameters.gradients.zero_()
    loss = learner.accumulate(rows, 0.01)
    return loss, learner.parameters.gradients.clone()


def test_packed_rows_are_learned_as_if_each_were_alone(learner, rows, monkeypatch):
    assert learner._packing is not None, "the model keeps packed rows apart"
    assert len({row.tokens for row in rows}) > 2
    found = []
    for packs in (False, True):
        monkeypatch.setattr(Packing, "pays", lambda _self, _lengths, packs=packs: packs)
        found.append((*learned(learner, rows), learner.loss_sum(rows)))
        lengths = [row.tokens for row in rows]
        assert learner.computed_tokens(lengths) == (sum(lengths) if packs else 6 * max(lengths))
    (padded, padded_gradient, padded_sum), (packed, packed_gradient, packed_sum) = found
    assert packed == pytest.approx(padded, rel=1e-5)
    assert packed_sum == pytest.approx(padded_sum, rel=1e-5)
    assert torch.allclose(packed_gradient, padded_gradient, atol=1e-6)


class Mixing:
    """A decoder whose rows see all that stands before them: what models without our kind of mask do."""

    def __init__(self, decoder):
        self.layers, self._decoder = decoder.layers, decoder

    def __call__(self, *, input_ids, **given):
        return self._decoder(input_ids=input_ids, attention_mask=torch.ones_like(input_ids), **given)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rounding_is_no_reason_against_packing_and_rows_that_see_each_other_are(base_model, monkeypatch, dtype):
    model = AutoModelForCausalLM.from_pretrained(base_model, dtype=dtype)
    assert Packing.of(model, "cpu") is not None
    mixing = Mixing(model.get_decoder())
    monkeypatch.setattr(model, "get_decoder", lambda: mixing)
    assert Packing.of(model, "cpu") is None


def test_packing_pays_where_lengths_differ_much_and_always_where_kernels_skip_other_rows():
    masked, flash = Packing(3_000.0, skips_others=False), Packing(3_000.0, skips_others=True)
    assert masked.pays([20, 20, 20, 400])
    assert not masked.pays([100] * 8)
    assert not masked.pays([90, 95, 100])
    assert flash.pays([90, 95, 100])
    assert not flash.pays([100] * 8)


def test_a_limit_of_tokens_cuts_micro_batches_and_never_a_row():
    lengths = [10, 20, 30, 40, 500]
    parts = micro_batches(range(5), lengths, 8, 100)
    assert sorted(row for part in parts for row in part) == list(range(5))
    assert all(len(part) * max(lengths[row] for row in part) <= 100 for part in parts if len(part) > 1)
    assert micro_batches(range(5), lengths, 8, 10_000) == [[0, 1, 2, 3, 4]]
    assert micro_batches(range(5), lengths, 8, 1) == [[0], [1], [2], [3], [4]]


def test_what_autograd_remembers_grows_with_the_tokens_and_shrinks_with_checkpointing(learner, rows):
    by_length = sorted(rows, key=lambda row: row.tokens)
    short, long = learner._remembered_by(by_length[0]), learner._remembered_by(by_length[-1])
    ratio = by_length[-1].tokens / by_length[0].tokens
    assert 0.6 * ratio < long / short < 2 * ratio**2
    general.use_checkpointing(learner._causal_lm)
    assert learner._remembered_by(by_length[-1]) < 0.8 * long
    weight = torch.ones(1000, requires_grad=True)
    with Remembered([weight]) as remembered:
        (weight * weight).exp().sum()
    assert 4_000 <= remembered.bytes <= 8_000, "the weight itself is there anyway"


@pytest.mark.parametrize("room_for", ["two rows", "no row"])
def test_little_memory_changes_how_it_is_computed_and_not_what(tmp_path, base_model, monkeypatch, room_for):
    def job(name):
        return write_job(
            tmp_path / name, base_model, train=ticket_rows(12), path="general", epochs=1, batch_size=6, lora_r=4
        )

    _, plain = run_here(job("plain"))
    seen = []
    accumulate = GeneralLearner.accumulate

    def watched(self, rows, scale):
        seen.append((len(rows), self._checkpointing))
        return accumulate(self, rows, scale)

    monkeypatch.setattr(GeneralLearner, "accumulate", watched)
    longest = 0.6 * 1.3e6  # about what one row of the tiny model makes autograd remember, see the assertion below
    free = {"two rows": 8 * longest, "no row": 1_000.0}[room_for]
    monkeypatch.setattr(room, "free_bytes", lambda _device: free)
    _, events = run_here(job("little"))
    assert losses(events) == pytest.approx(losses(plain), rel=1e-4)
    said = [event["message"] for event in events if event["event"] == "log"]
    if room_for == "no row":
        assert {size for size, _ in seen} == {1}
        assert all(checkpointing for _, checkpointing in seen)
        assert any("gradient checkpointing is switched on" in one for one in said)
    else:
        assert not any(checkpointing for _, checkpointing in seen)
        assert max(size for size, _ in seen) < 6

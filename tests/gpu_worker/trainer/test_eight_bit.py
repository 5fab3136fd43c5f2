"""8-bit arithmetic: how far it is from the exact result, and what else must stay as it is."""

import pytest
import torch
from torch.nn import functional

from experiments.hyperparameters import Hyperparameters
from gpu_worker.trainer import learner as learners
from gpu_worker.trainer.errors import TrainingError
from gpu_worker.trainer.fast import smoothing
from gpu_worker.trainer.fast.learner import FastLearner
from gpu_worker.trainer.fast.products import (
    Activations,
    EightBitProduct,
    ExactProduct,
    Product,
    quantise,
    smoothing_of,
)
from gpu_worker.trainer.fast.support import computes_in_eight_bit
from gpu_worker.trainer.fast.weights import FrozenProjection
from gpu_worker.trainer.learner import make_learner
from gpu_worker.trainer.rows import encode_file
from gpu_worker.trainer.spec import read_spec
from gpu_worker.trainer.stop import StopFlag
from tests.gpu_worker.trainer.jobs import losses, only, run_here, ticket_rows, write_job

pytestmark = pytest.mark.slow

needs_vnni = pytest.mark.skipif(not torch.cpu._is_vnni_supported(), reason="the processor has no VNNI")


@pytest.fixture
def spec(tmp_path, base_model):
    def spec(**chosen):
        return read_spec(write_job(tmp_path / "job", base_model, train=ticket_rows(8), **chosen))

    return spec


@pytest.fixture
def rows(tmp_path, base_model, renderer):
    job = write_job(tmp_path / "rows", base_model, train=ticket_rows(8))
    return list(encode_file(job.train_rows, renderer, Hyperparameters()).rows)


def disturbed(spec) -> FastLearner:
    one = FastLearner(spec)
    one.parameters.values.add_(0.05 * torch.randn(one.parameters.count, generator=torch.Generator().manual_seed(5)))
    return one


def whole(product: Product) -> torch.Tensor:
    return product.values if product.scales is None else product.values * product.scales


def test_a_row_in_eight_bits_is_off_by_half_a_step_at_most():
    rows = torch.randn(5, 33) * torch.tensor([[1e-6], [1.0], [1e6], [3.0], [0.0]])
    eight = quantise(rows)
    back = (eight.values.float() - 128) * eight.scales
    assert torch.all((back - rows).abs() <= 0.5001 * eight.scales)
    assert torch.equal(back[4], torch.zeros(33))


@needs_vnni
@pytest.mark.parametrize("bias", [False, True])
def test_products_both_ways_are_near_the_exact_ones(bias):
    torch.manual_seed(0)
    weight = torch.randn(96, 48) * torch.logspace(-2, 1, 96)[:, None]
    frozen = FrozenProjection(weight, torch.randn(96) if bias else None, ())
    exact, eight = ExactProduct(frozen), EightBitProduct(frozen)
    for size, ways in ((48, (exact.forward, eight.forward)), (96, (exact.backward, eight.backward))):
        x = Activations(torch.randn(7, size) * torch.logspace(-3, 3, 7)[:, None])
        true, rounded = (whole(way(x)) for way in ways)
        assert torch.all((rounded - true).norm(dim=1) < 0.02 * true.norm(dim=1))


@needs_vnni
def test_columns_that_are_far_larger_than_others_do_not_drown_them():
    """A few columns a hundred times as large, as models have them: rounded by their peaks, the rest is near zero."""
    torch.manual_seed(0)
    sizes = torch.ones(48)
    sizes[[3, 17, 40]] = 100.0
    frozen = FrozenProjection(torch.randn(96, 48) / sizes.sqrt(), None, ())
    x = Activations(torch.randn(7, 48) * sizes)
    sample = torch.randn(64, 48) * sizes
    plain, smoothed = EightBitProduct(frozen), EightBitProduct(frozen, sample.abs().amax(dim=0))
    true = whole(ExactProduct(frozen).forward(x))
    off, less = ((whole(one.forward(x)) - true).norm(dim=1) / true.norm(dim=1) for one in (plain, smoothed))
    assert torch.all(less < 0.6 * off)
    back = Activations(torch.randn(7, 96))
    assert torch.equal(whole(plain.backward(back)), whole(smoothed.backward(back)))


def test_a_column_that_was_silent_in_the_sample_may_speak_later():
    weight = torch.randn(96, 48)
    peaks = torch.rand(48) + 1.0
    peaks[5] = 0.0
    factors = smoothing_of(weight, peaks)
    assert torch.isfinite(factors).all()
    assert factors[5] < 20 * factors.median()
    assert torch.isfinite(smoothing_of(torch.zeros(96, 48), torch.zeros(48))).all()


@needs_vnni
def test_the_peaks_are_those_of_the_base_model_on_the_first_rows(spec, rows, monkeypatch):
    monkeypatch.setattr(smoothing, "MOST_ROWS", 3)
    assert smoothing.sample_of(rows) == rows[:3]
    monkeypatch.setattr(smoothing, "MOST_TOKENS", len(rows[0].token_ids) + 1)
    assert smoothing.sample_of(rows) == rows[:1]
    one, again, other = (FastLearner(spec(precision="int8"), some) for some in (rows, rows[:1], rows[1:]))
    assert one.loss_sum(rows) == again.loss_sum(rows) != other.loss_sum(rows)
    assert one.loss_sum(rows) == pytest.approx(FastLearner(spec()).loss_sum(rows), rel=0.01)


@needs_vnni
def test_loss_and_gradient_are_near_the_exact_ones(spec, rows):
    exact, eight = disturbed(spec()), disturbed(spec(precision="int8"))
    assert eight.accumulate(rows, 0.01) == pytest.approx(exact.accumulate(rows, 0.01), rel=0.01)
    ours, true = eight.parameters.gradients, exact.parameters.gradients
    assert float((ours - true).norm() / true.norm()) < 0.08
    assert functional.cosine_similarity(ours, true, dim=0) > 0.997
    assert "8-bit" in eight.why
    assert "32 bit" in exact.why


@needs_vnni
def test_a_row_is_computed_alike_in_any_company(spec, rows):
    """Each row has its own scale, so a row a thousand times as large beside it changes nothing."""
    one = disturbed(spec(precision="int8"))
    together = one.accumulate(rows, 1.0)
    gradients = one.parameters.gradients.clone()
    one.parameters.gradients.zero_()
    alone = sum(one.accumulate([row], 1.0) for row in rows)
    # Not to the last bit: attention adds up in another order, and a number on the edge may round the other way.
    assert alone == pytest.approx(together, rel=2e-3)
    assert float((one.parameters.gradients - gradients).norm() / gradients.norm()) < 0.03
    x, weight = torch.randn(4, 48), torch.randn(96, 48)
    product = EightBitProduct(FrozenProjection(weight, None, ()))
    large = torch.cat([x, 1000 * torch.randn(1, 48)])
    assert torch.equal(whole(product.forward(Activations(x))), whole(product.forward(Activations(large)))[:4])


@needs_vnni
def test_an_interrupted_run_ends_like_an_uninterrupted_one_and_plain_peft_loads_it(tmp_path, base_model):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    chosen = {"precision": "int8", "epochs": 2.0, "batch_size": 4, "micro_batch_size": 2}
    rows = ticket_rows(12)
    whole = write_job(tmp_path / "whole", base_model, train=rows, validation=ticket_rows(4, seed=1), **chosen)
    code, events = run_here(whole)
    assert code == 0
    assert losses(events)[6] < losses(events)[1]

    stop = StopFlag()
    broken = write_job(tmp_path / "broken", base_model, train=rows, validation=ticket_rows(4, seed=1), **chosen)
    _stop_after(stop, steps=3)
    assert run_here(broken, stop=stop)[0] == 75
    write_job(tmp_path / "broken", base_model, train=rows, resume=True, **chosen)
    code, rest = run_here(broken)
    assert only(rest, "started")["resumed_from_step"] >= 1
    assert {step: losses(events)[step] for step in losses(rest)} == pytest.approx(losses(rest), abs=1e-5)

    model = AutoModelForCausalLM.from_pretrained(base_model)
    tuned = PeftModel.from_pretrained(model, whole.adapter)
    changed = [name for name, tensor in tuned.named_parameters() if "lora_B" in name and tensor.abs().sum() > 0]
    assert len(changed) == 14


def _stop_after(stop: StopFlag, *, steps: int) -> None:
    """Let the flag be raised when it is asked for the n-th time."""
    asked, check = iter(range(10_000)), stop.check

    def counting() -> None:
        if next(asked) == 4 + 3 * steps:
            stop.request()
        check()

    stop.check = counting


@pytest.mark.parametrize(
    ("chosen", "device", "vnni", "words"),
    [
        ({}, "cuda", True, "compress to 8 bit"),
        ({}, "cpu", False, "no VNNI"),
        ({"path": "general"}, "cpu", True, "asked for"),
        ({"gradient_checkpointing": True}, "cpu", True, "gradient checkpointing"),
    ],
)
def test_it_is_refused_where_it_cannot_be_had(monkeypatch, spec, chosen, device, vnni, words):
    monkeypatch.setattr(learners, "choose_device", lambda: device)
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: vnni)
    with pytest.raises(TrainingError) as refused:
        make_learner(spec(precision="int8", **chosen), longest_row=100)
    assert refused.value.code == "bad_settings"
    assert words in refused.value.message


def test_fastest_takes_8_bit_where_the_processor_has_it_and_never_refuses(tmp_path, base_model, monkeypatch):
    spec = read_spec(write_job(tmp_path, base_model, train=ticket_rows(2), precision="fastest"))
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    assert FastLearner(spec).arithmetic["precision"] == "fp32"
    assert make_learner(spec, longest_row=100).path == "fast"
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True)
    assert computes_in_eight_bit(spec)

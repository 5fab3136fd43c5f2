"""Compiled kernels compute what the plain ones compute, and a machine without a compiler goes on without them."""

import math

import pytest
import torch

from experiments.hyperparameters import Hyperparameters
from gpu_worker import compiled as loader
from gpu_worker.compiled import NativeUnavailable
from gpu_worker.trainer.fast import native
from gpu_worker.trainer.fast.kernels import Kernels, LowRank, TrainedLowRank
from gpu_worker.trainer.fast.learner import FastLearner
from gpu_worker.trainer.fast.native import NativeKernels
from gpu_worker.trainer.fast.native_check import require_agreement
from gpu_worker.trainer.fast.products import Activations, Product, quantise
from gpu_worker.trainer.rows import encode_file
from gpu_worker.trainer.spec import read_spec
from tests.gpu_worker.trainer.jobs import ticket_rows, write_job

pytestmark = pytest.mark.slow
needs_compiler = pytest.mark.skipif(loader.shutil.which("g++") is None, reason="there is no C++ compiler")
PLAIN = Kernels()


@pytest.fixture(scope="module")
def compiled(kernel_cache):
    """Kernels with 8-bit rounding, compiled once for all tests of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(loader.CACHE_VARIABLE, str(kernel_cache))
        yield NativeKernels(eight_bit=True)


def assert_rounded(activations, smoothing=None) -> None:
    """The bytes are those of the plain rounding; one that lies on the edge may fall to the other side."""
    expected = quantise(activations.exact, smoothing)
    assert torch.allclose(activations.quantised.scales, expected.scales, rtol=1e-6)
    off = (activations.quantised.values.int() - expected.values.int()).abs()
    assert off.max() <= 1
    assert off.float().mean() < 0.01


# 7 rows: a block of six and a rest; 150 columns: vectors of 64, of 16, and a rest
@needs_compiler
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("with_residual", [False, True])
def test_finishing_a_product(compiled, scaled, adapted, with_residual):
    torch.manual_seed(0)
    parts = [
        LowRank(slice(10, 90), slice(0, 5), torch.randn(5, 80)),
        LowRank(slice(90, 149), slice(5, 8), torch.randn(3, 59)),
    ]
    values, low, residual = torch.randn(7, 150), torch.randn(7, 8) if adapted else None, torch.randn(7, 150)
    scales = torch.rand(7, 1) if scaled else None
    ours, plain = (
        kernels.finisher(parts, 150)(Product(values.clone(), scales), low, residual if with_residual else None)
        for kernels in (compiled, PLAIN)
    )
    assert torch.allclose(ours, plain, atol=1e-5)


# 103 tokens: for two threads, blocks of 48 and a rest; ranks: eight together and some alone; columns as above
@needs_compiler
def test_gradients_of_adapters(compiled):
    torch.manual_seed(0)
    d_y, low = torch.randn(103, 150), torch.randn(103, 15)

    def results(kernels):
        parts = [
            TrainedLowRank(columns, ranks, up, torch.ones(up.shape))
            for columns, ranks, up in ((slice(10, 91), slice(0, 10), ups[0]), (slice(91, 150), slice(10, 15), ups[1]))
        ]
        d_low = kernels.low_rank_backward(parts, 0.5)(d_y, low)
        return [d_low, *(part.up_gradient for part in parts)]

    ups = torch.randn(10, 81), torch.randn(5, 59)
    expected = results(PLAIN)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for ours, plain in zip(results(compiled), expected, strict=True):
            assert torch.allclose(ours, plain, atol=1e-4, rtol=1e-5)


@needs_compiler
def test_cross_entropy(compiled):
    torch.manual_seed(0)
    logits, labels = 30 * torch.randn(5, 203), torch.tensor([3, 0, 202, 7, 7])
    expected = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    gradient = torch.softmax(logits, dim=1) - torch.nn.functional.one_hot(labels, 203)
    for kernels in (compiled, PLAIN):
        assert kernels.cross_entropy(logits.clone(), labels, gradient=False) == pytest.approx(float(expected), rel=1e-6)
        own = logits.clone()
        assert kernels.cross_entropy(own, labels, gradient=True) == pytest.approx(float(expected), rel=1e-6)
        assert torch.allclose(own, gradient, atol=1e-6)
        own[2] = float("nan")
        assert math.isnan(kernels.cross_entropy(own, labels, gradient=True)), "a NaN must reach the loss"


@needs_compiler
def test_norm_gate_rotation_and_softmax(compiled):
    torch.manual_seed(0)
    hidden, weight, d, residual = torch.randn(7, 50), torch.randn(50), torch.randn(7, 50), torch.randn(7, 50)
    (ours, inverse), (plain, plain_inverse) = (k.rms_norm(hidden, weight, 1e-5) for k in (compiled, PLAIN))
    assert torch.allclose(ours.exact, plain.exact, atol=1e-6)
    assert torch.allclose(inverse, plain_inverse, atol=1e-6)
    assert_rounded(ours)
    factors = torch.rand(50) + 0.1
    assert_rounded(compiled.rms_norm(hidden, weight, 1e-5, factors)[0], factors)
    assert_rounded(compiled.activations(hidden, factors), factors)
    for rest in (None, residual):
        arguments = (d, hidden, inverse, plain.exact, weight, rest)
        ours_back, plain_back = (k.rms_norm_backward(*arguments) for k in (compiled, PLAIN))
        assert torch.allclose(ours_back.exact, plain_back.exact, atol=1e-5)
        assert_rounded(ours_back)

    hidden[3, 4] = float("nan")
    assert compiled.rms_norm(hidden, weight, 1e-5)[0].exact[3].isnan().any(), "a NaN must reach the loss"


@needs_compiler
@pytest.mark.parametrize("gelu", [False, True])
def test_gates(compiled, monkeypatch, gelu):
    torch.manual_seed(0)
    monkeypatch.setattr(compiled, "gelu", gelu)
    plain = Kernels(gelu=gelu)
    gate_up = 8 * torch.randn(7, 50)
    gate_up[0, 0], gate_up[1, 0] = 200.0, -200.0  # where exp would overflow
    assert torch.allclose(compiled.gated(gate_up).exact, plain.gated(gate_up).exact, atol=1e-5, rtol=1e-5)
    assert_rounded(compiled.gated(gate_up))
    factors = torch.rand(25) + 0.1
    assert_rounded(compiled.gated(gate_up, factors), factors)
    (ours_back, ours_again), (plain_back, plain_again) = (
        k.gated_backward(torch.ones(7, 25), gate_up) for k in (compiled, plain)
    )
    assert torch.allclose(ours_again, plain_again, atol=1e-5, rtol=1e-5)
    assert torch.allclose(plain_again, plain.gated(gate_up).exact)
    assert torch.allclose(ours_back.exact, plain_back.exact, atol=1e-4, rtol=1e-5)
    assert_rounded(ours_back)

    heads, angles = torch.randn(7, 5, 12), torch.randn(7, 1, 6)
    turned = [k.rotate(heads[:, :3], angles.cos(), angles.sin()) for k in (compiled, PLAIN)]
    assert torch.allclose(*turned, atol=1e-6)
    back = heads.clone()
    assert torch.allclose(
        compiled.rotate(turned[0], angles.cos(), angles.sin(), back[:, :3], back=True), heads[:, :3], atol=1e-6
    )
    assert torch.equal(back[:, 3:], heads[:, 3:])

    weights = torch.softmax(torch.randn(2, 7, 9), dim=-1)
    d_weights = torch.randn(2, 7, 9)
    ours, plain = (k.softmax_backward(d_weights.clone(), weights, 0.25) for k in (compiled, PLAIN))
    assert torch.allclose(ours, plain, atol=1e-6)


@needs_compiler
@pytest.mark.parametrize(("precision", "loss_off", "gradient_off"), [("fp32", 1e-5, 1e-4), ("int8", 2e-3, 0.03)])
@pytest.mark.parametrize("targets", ["all-linear", "query-value"])
def test_loss_and_gradient_with_and_without(
    compiled, tmp_path, base_model, renderer, precision, loss_off, gradient_off, targets
):
    learners = []
    for compile_kernels in (True, False):
        job = write_job(
            tmp_path, base_model, train=ticket_rows(8),
            precision=precision, compile_kernels=compile_kernels, lora_targets=targets, lora_r=4,
        )  # fmt: skip
        one = FastLearner(read_spec(job))
        noise = torch.randn(one.parameters.count, generator=torch.Generator().manual_seed(5))
        one.parameters.values.add_(0.05 * noise)
        learners.append(one)
    rows = encode_file(job.train_rows, renderer, Hyperparameters()).rows
    ours, plain = learners
    assert "with compiled" in ours.why
    assert ours.accumulate(rows, 0.01) == pytest.approx(plain.accumulate(rows, 0.01), rel=loss_off)
    assert ours.loss_sum(rows) == pytest.approx(plain.loss_sum(rows), rel=loss_off)
    difference = ours.parameters.gradients - plain.parameters.gradients
    assert float(difference.norm() / plain.parameters.gradients.norm()) < gradient_off


# five rows and one, which shares its beginning with nobody; attention in one pass and in blocks
@needs_compiler
@pytest.mark.parametrize("rows_together", [5, 1])
@pytest.mark.parametrize("most_fused_keys", [256, 0])
def test_tokens_that_fill_a_step_change_nothing(
    compiled, tmp_path, base_model, renderer, monkeypatch, rows_together, most_fused_keys
):
    monkeypatch.setattr(native, "MOST_FUSED_KEYS", most_fused_keys)
    job = write_job(tmp_path, base_model, train=ticket_rows(5), precision="int8", compile_kernels=True, lora_r=4)
    rows = encode_file(job.train_rows, renderer, Hyperparameters()).rows[:rows_together]
    found = []
    for multiple in (1, 16):
        monkeypatch.setattr("gpu_worker.trainer.fast.learner.FILLED_TO", multiple)
        one = FastLearner(read_spec(job))
        one.parameters.values.add_(0.05 * torch.randn(one.parameters.count, generator=torch.Generator().manual_seed(5)))
        batch = one._packed(rows)
        tokens = len(batch.token_ids)
        assert len(batch.positions) == tokens == sum(span.count for span in batch.spans)
        assert [block.end for block in batch.blocks][-1] == tokens
        assert [block.first for block in batch.blocks] == [0, *(block.end for block in batch.blocks[:-1])]
        found.append((tokens, one.loss_sum(rows), one.accumulate(rows, 1.0), one.parameters.gradients))
    (bare, *known, gradients), (filled, *own, own_gradients) = found
    assert filled == -(-bare // 16) * 16 > bare
    assert own == pytest.approx(known, rel=1e-6)
    assert torch.allclose(own_gradients, gradients, atol=1e-6, rtol=1e-4)


@needs_compiler
def test_what_was_compiled_is_kept_and_used_again(tmp_path, monkeypatch):
    monkeypatch.setenv(loader.CACHE_VARIABLE, str(tmp_path / "cache"))
    NativeKernels(eight_bit=False)
    (kept,) = (tmp_path / "cache" / "kernels").iterdir()
    monkeypatch.setattr(loader.shutil, "which", lambda _name: None)
    NativeKernels(eight_bit=False)
    assert kept.suffix == ".so"


@pytest.mark.parametrize("broken", ["no compiler", "no room", "bad source"])
def test_without_a_compiler_it_goes_on_without(tmp_path, base_model, monkeypatch, broken):
    monkeypatch.setenv(loader.CACHE_VARIABLE, str(tmp_path / "cache"))
    if broken == "no compiler":
        monkeypatch.setattr(loader.shutil, "which", lambda _name: None)
    elif broken == "no room":
        (tmp_path / "cache").write_text("a file where the folder should be")
    else:
        bad = tmp_path / "bad.cpp"
        bad.write_text("this is not C++")
        monkeypatch.setattr(loader, "TRAINER", loader.Library(bad))
    job = write_job(tmp_path / "job", base_model, train=ticket_rows(2), compile_kernels=True)
    one = FastLearner(read_spec(job))
    assert "without compiled kernels" in one.why
    assert type(one._decoder._kernels) is Kernels


@needs_compiler
def test_kernels_that_compute_something_else_are_not_used(compiled, tmp_path, base_model, monkeypatch):
    require_agreement(compiled)
    for kernel in ("rms_norm_backward", "attention"):
        right = getattr(NativeKernels, kernel)

        def wrong(self, *arguments, right=right, **named):
            made = right(self, *arguments, **named)
            if isinstance(made, Activations):
                made.exact.mul_(1.01)
                return made
            forward = made.forward
            made.forward = lambda stacked: (forward(stacked)[0] * 1.01, forward(stacked)[1])
            return made

        with monkeypatch.context() as patch:
            patch.setattr(NativeKernels, kernel, wrong)
            with pytest.raises(NativeUnavailable, match=f"{kernel} failed its check"):
                require_agreement(compiled)
            job = write_job(tmp_path / kernel, base_model, train=ticket_rows(2), compile_kernels=True)
            assert f"without compiled kernels: the kernel {kernel}" in FastLearner(read_spec(job)).why

"""Compiled kernels say what plain torch says: one by one, and in whole answers beside transformers'."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from gpu_worker.engine.adapter_folder import LoraPair, projection_widths
from gpu_worker.engine.decoder import DecoderRunner
from gpu_worker.engine.kernels import Kernels, NativeKernels
from gpu_worker.engine.lora_bank import PROJECTIONS, LoraBank
from gpu_worker.engine.model_shape import ModelShape, read_model_shape
from gpu_worker.engine.step_layout import DirectRows
from gpu_worker.families import FAMILIES
from gpu_worker.rotary import Rope
from tests.gpu_worker.engine.driver import Driver, make_driver

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler"),
    pytest.mark.usefixtures("compiled_kernels"),
]
WHO = (None, "north", "south", "west")
TEXTS = ("short", "The printer does not print. " * 4, "Не могу войти в личный кабинет", "x" * 90)


def runner_of(driver: Driver) -> DecoderRunner:
    runner = driver.core._runner
    assert isinstance(runner, DecoderRunner)
    return runner


def test_one_by_one(compiled_kernels, model_dir) -> None:
    shape = read_model_shape(model_dir)
    plain, native = Kernels(shape), NativeKernels(shape)
    x, weight = torch.randn(5, shape.hidden), torch.randn(shape.hidden)
    assert torch.allclose(native.rms_norm(x, weight), plain.rms_norm(x, weight), atol=1e-6)
    gate_up = torch.randn(5, 2 * shape.intermediate)
    assert torch.allclose(native.gated(gate_up), plain.gated(gate_up), atol=1e-6)
    gemma = replace(shape, family=FAMILIES["gemma"])
    for scale in (1e-3, 1.0, 20.0):
        # in float32, 1 + tanh of the plain form has no exact digits left where the gate is well below zero
        exact = Kernels(gemma).gated((scale * gate_up).double())
        assert torch.allclose(NativeKernels(gemma).gated(scale * gate_up).double(), exact, rtol=1e-5, atol=1e-6)
    (rounded, scales), (right, right_scales) = native.quantise(x * 9), plain.quantise(x * 9)
    assert torch.allclose(scales, right_scales)
    assert int((rounded.int() - right.int()).abs().max()) <= 1  # ties go to different sides
    angles = torch.randn(5, 1, shape.head_dim // 2)
    rotation = torch.polar(torch.ones_like(angles), angles)
    slots = torch.tensor([3, 1, 7, 0, 4])
    found = []
    for kernels in (plain, native):
        qkv = torch.randn(5, shape.qkv_width, generator=torch.Generator().manual_seed(1))
        cache = torch.zeros(8, 2 * shape.kv_width)
        kernels.rotate_and_store(qkv, rotation, slots, cache)
        found.append((qkv, cache))
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_what_is_not_finite_spreads(compiled_kernels, model_dir) -> None:
    native = NativeKernels(read_model_shape(model_dir))
    for bad in (float("nan"), float("inf")):
        assert not torch.isfinite(native.rms_norm(torch.tensor([[1.0, bad, 2.0]]), torch.ones(3))).all()
        assert not torch.isfinite(native.gated(torch.tensor([[1.0, bad, 2.0, 3.0]]))).all()
        assert not torch.isfinite(native.quantise(torch.tensor([[1.0, bad, 2.0]]))[1]).all()
        wide = torch.ones(1, 64)
        wide[0, 3] = bad
        assert not torch.isfinite(native.gated(wide)).all()
    assert torch.isfinite(native.gated(torch.tensor([[-200.0, 1.0]]))).all()
    assert torch.isfinite(native.gated(torch.full((1, 32), -200.0))).all()
    gate = torch.linspace(-90, 90, 16 * 4001).view(4001, 16)
    wide = torch.cat([gate, torch.ones_like(gate)], 1)
    assert torch.allclose(native.gated(wide), functional.silu(gate.double()).float(), rtol=5e-7, atol=1e-35)
    assert torch.allclose(native.gated(torch.tensor([[88.0, 1.0]])), functional.silu(torch.tensor([[88.0]])))


def wide_shape(head_dim: int) -> ModelShape:
    """Return a shape whose widths are no whole number of vector registers, except where heads are."""
    return ModelShape(
        vocabulary=40, hidden=6 * head_dim + 5, intermediate=37, layers=1, heads=6, kv_heads=2, head_dim=head_dim,
        rms_eps=1e-5, ropes=(Rope(),), windows=(None,), max_positions=256, tied_head=True, qkv_bias=False,
    )  # fmt: skip


@pytest.mark.parametrize("window", [None, 5, 16])
@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("head_dim", [24, 64, 128, 256])
def test_attention_of_any_width(compiled_kernels, head_dim, window, cap) -> None:
    shape = replace(wide_shape(head_dim), score_cap=cap)
    torch.manual_seed(1)
    qkv, cache = torch.randn(3, shape.qkv_width), torch.randn(8 * 16, 2 * shape.kv_width)
    tables, lengths = [[3, 1, 6], [5]], [40, 7, 8]
    rows = DirectRows(torch.tensor([3, 1, 6, 5]), torch.tensor([0, 3, 3]), torch.tensor(lengths))
    found = NativeKernels(shape).attend(qkv, rows, cache, window)
    for token, (table, length) in enumerate(zip([tables[0], tables[1], tables[1]], lengths, strict=True)):
        seen = cache.view(8, 16, -1)[table].flatten(0, 1)[:length].view(length, 2, shape.kv_heads, head_dim)
        keys, values = seen[:, 0].transpose(0, 1), seen[:, 1].transpose(0, 1)
        query = qkv[token, : shape.query_width].view(shape.heads, 1, head_dim)
        mask = torch.zeros(1, length)
        mask[:, : max(0, length - (window or length))] = float("-inf")
        if cap is None:
            right = functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask, enable_gqa=True)
        else:
            keys, values = (one.repeat_interleave(3, dim=0) for one in (keys, values))
            scores = cap * torch.tanh(query @ keys.transpose(1, 2) / head_dim**0.5 / cap) + mask
            right = scores.softmax(-1) @ values
        assert torch.allclose(found[token], right.flatten(), atol=2e-6)


def test_updates_of_mixed_adapters(compiled_kernels) -> None:
    """As plain torch has them, to the bit the same whatever shares the step, and none where there is no adapter."""
    shape = wide_shape(24)
    native, plain = (
        LoraBank(shape, rank_budget=32, device=torch.device("cpu"), dtype=torch.float32, kernels=kernels)
        for kernels in (NativeKernels(shape), None)
    )
    torch.manual_seed(2)
    for uid, rank in ((1, 3), (2, 16), (3, 8)):
        weights = {
            (0, module): LoraPair(torch.randn(rank, wide), torch.randn(out, rank))
            for module, (wide, out) in projection_widths(shape).items()
            if module != "k_proj" or uid != 2
        }
        native.add(uid, rank, weights)
        plain.add(uid, rank, weights)
    uids = [1, 1, 2, 2, 2, 2, 2, None, 3, 3, *[1] * 30]
    for projection in PROJECTIONS:
        wide = projection_widths(shape)[projection.modules[0]][0]
        x = torch.randn(len(uids), wide)
        before = torch.randn(len(uids), sum(projection_widths(shape)[module][1] for module in projection.modules))
        results = []
        for bank in (native, plain):
            y = before.clone()
            bank.apply(bank.plan(uids), 0, projection, x, y)
            results.append(y)
        assert torch.allclose(*results, atol=2e-4)
        assert torch.equal(results[0][7], before[7])
        for token in (0, 3, 6, 9, 20, 39):
            y = before[token : token + 1].clone()
            native.apply(native.plan([uids[token]]), 0, projection, x[token : token + 1], y)
            assert torch.equal(y[0], results[0][token])


def test_answers_are_those_of_transformers(
    compiled_kernels, model_dir, renderer, adapter_dirs, reference, prompt_ids
) -> None:
    """Alone, and with all others in the same steps; whole and half-shared prompts, drafts and their rejection."""
    for limits in ({}, {"prefill_tokens": 7}):
        driver = make_driver(model_dir, renderer, adapter_dirs, **limits)
        assert isinstance(runner_of(driver)._kernels, NativeKernels)
        expected = {}
        for text in TEXTS:
            for adapter in WHO:
                name = f"{adapter} {text}"
                expected[name] = reference.generate(prompt_ids(text), adapter, 12)
                driver.submit(name, prompt_ids(text), adapter)
        assert {name: answer.token_ids for name, answer in driver.run().items()} == expected
        for text in TEXTS:
            assert driver.answer(prompt_ids(text), "north").token_ids == expected[f"north {text}"]

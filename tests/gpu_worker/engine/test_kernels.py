"""Compiled kernels say what plain torch says: one by one, and in whole answers beside transformers'."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch.nn import functional

from gpu_worker.engine.decoder import DecoderRunner
from gpu_worker.engine.kernels import Kernels, NativeKernels
from gpu_worker.engine.model_shape import read_model_shape
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
    assert torch.isfinite(native.gated(torch.tensor([[-200.0, 1.0]]))).all()
    assert torch.allclose(native.gated(torch.tensor([[88.0, 1.0]])), functional.silu(torch.tensor([[88.0]])))


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

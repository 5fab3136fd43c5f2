"""bf16 and 8-bit weights: close to float32, and never dependent on what else is in the step."""

from __future__ import annotations

import pytest
import torch

from gpu_worker.engine.config import EngineConfig
from gpu_worker.engine.decoder import DecoderRunner
from gpu_worker.engine.errors import UnsupportedModel
from gpu_worker.engine.linear import Int8Linear
from tests.gpu_worker.engine.driver import make_driver


def test_a_row_of_an_8_bit_product_does_not_depend_on_the_others() -> None:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(48, 64, generator=generator)
    bias = torch.randn(48, generator=generator)
    linear = Int8Linear(weight, bias)
    rows = torch.randn(9, 64, generator=generator)
    rows[4] *= 1000  # one scale for all would leave nothing of the others
    together = linear(rows)
    for row in range(9):
        assert torch.equal(linear(rows[row : row + 1])[0], together[row])
    right = rows @ weight.t() + bias
    assert float((together - right).norm(dim=1).div(right.norm(dim=1)).max()) < 0.02
    assert torch.allclose(linear.add_to(rows @ weight.t(), rows), together + rows @ weight.t())


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["bf16", "int8"])
def test_answers_alone_and_in_company_are_equal(model_dir, renderer, adapter_dirs, prompt_ids, weights) -> None:
    texts = ("short", "The printer does not print. " * 4, "Не могу войти в личный кабинет")
    who = (None, "north", "south", "west")
    alone, together = ({}, make_driver(model_dir, renderer, adapter_dirs, weights=weights))
    for text in texts:
        for adapter in who:
            driver = make_driver(model_dir, renderer, adapter_dirs, weights=weights, draft_tokens=0)
            alone[f"{adapter} {text}"] = driver.answer(prompt_ids(text), adapter).token_ids
            together.submit(f"{adapter} {text}", prompt_ids(text), adapter)
    found = {name: answer.token_ids for name, answer in together.run().items()}
    equal = sum(found[name] == alone[name] for name in alone)
    assert equal >= (len(alone) if weights == "int8" else len(alone) - 2)


@pytest.mark.slow
def test_8_bits_agree_mostly_with_float32(model_dir, renderer, adapter_dirs, reference, prompt_ids) -> None:
    driver = make_driver(model_dir, renderer, adapter_dirs, weights="int8")
    agreeing = total = 0
    for text in ("short", "The printer does not print.", "hello"):
        for adapter in (None, "north", "south", "west"):
            right = reference.generate(prompt_ids(text), adapter, 12)
            own = driver.answer(prompt_ids(text), adapter).token_ids
            agreeing += next((at for at, (a, b) in enumerate(zip(own, right, strict=False)) if a != b), len(right))
            total += len(right)
    assert agreeing > total / 2


def test_8_bits_are_for_processors(model_dir) -> None:
    with pytest.raises(UnsupportedModel, match="processors"):
        DecoderRunner.load(model_dir, EngineConfig(weights="int8"), device=torch.device("meta"))

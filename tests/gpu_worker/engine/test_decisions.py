"""Deciding among allowed values: probabilities are those of transformers, whether or not values are ruled out."""

from __future__ import annotations

import contextlib
import math
import random

import pytest
import torch

from gpu_worker.engine.build import build_core
from gpu_worker.engine.config import EngineConfig
from gpu_worker.engine.decisions import decide

VALUES = ("Cloud", "Cloud IAM", "Mail", "Mailing list", "VPN", "7")


@pytest.fixture(scope="module")
def base(model_dir):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)


def expected(model, adapter, prompt, values):
    """Return normalised log probabilities, each value computed alone by transformers and PEFT."""
    from peft import PeftModel

    model = PeftModel.from_pretrained(model, adapter) if adapter else model
    totals = []
    for value in values:
        with torch.no_grad():
            logprobs = model(input_ids=torch.tensor([[*prompt, *value]])).logits[0].log_softmax(-1)
        totals.append(sum(float(logprobs[len(prompt) - 1 + at, token]) for at, token in enumerate(value)))
    if adapter:
        model.unload()
    return [total - math.log(sum(map(math.exp, totals))) for total in totals]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["decoder", "transformers"])
def test_decisions_are_those_of_transformers(base, model_dir, adapter_dirs, renderer, prompt_ids, kind):
    core = build_core(model_dir, renderer, EngineConfig(), kind=kind)
    core.add_adapter("north", core.read_adapter(adapter_dirs["north"]))
    values = [renderer.encode(f'{{"service": "{value}"}}') for value in VALUES]
    free = core._pool.free_blocks
    for adapter in (None, "north"):
        prompt = prompt_ids("the printer is on fire, please send help to the third floor at once")
        ref = core.find_adapter(adapter) if adapter else None
        right = expected(base, adapter_dirs.get(adapter), prompt, values)
        for salt in (None, "team", "team"):
            found = decide(core.likelihoods(), prompt, values, ref, cache_salt=salt, most_unseen=0.0)
            assert found.logprobs == pytest.approx(right, abs=5e-4)
        assert sum(map(math.exp, found.logprobs)) == pytest.approx(1)
        assert found.best == max(range(len(right)), key=right.__getitem__)
        quick = decide(core.likelihoods(), prompt, values, ref, most_unseen=0.1)
        assert quick.best == found.best
        for rough, exact in zip(quick.logprobs, found.logprobs, strict=True):
            assert math.exp(rough) == pytest.approx(math.exp(exact), abs=0.1)
    assert core._pool.free_blocks == free


TOKENS, LAST = 12, 11


class MadeUpModel:
    """Says how likely tokens are from what stands before them, by chance but always the same; counts what it reads."""

    def __init__(self, sharpness: float, sure_of: tuple[int, ...] = ()) -> None:
        self.sharpness = sharpness
        self.sure_of = (1, *sure_of)
        self.read: set[tuple[int, ...]] = set()

    def distribution(self, before: tuple[int, ...]) -> torch.Tensor:
        draw = torch.Generator().manual_seed(hash(before) % 2**32)
        logits = self.sharpness * torch.randn(TOKENS, generator=draw, dtype=torch.double)
        if before == self.sure_of[: len(before)] != self.sure_of:
            logits[self.sure_of[len(before)]] += 16.0
        return logits.log_softmax(-1)

    @contextlib.contextmanager
    def behind(self, prompt, adapter, *, cache_salt):
        self.prompt = tuple(prompt)
        self.next_token = self.distribution(self.prompt)
        yield self

    def all_of(self, value) -> list[float]:
        """Return the log probability of each token of a value behind the prompt 1."""
        return [float(self.distribution((1, *value[:place]))[token]) for place, token in enumerate(value)]

    def of(self, continuations):
        self.read |= {tuple(ids[:end]) for ids in continuations for end in range(1, len(ids))}
        return [
            [float(self.distribution((*self.prompt, *ids[:place]))[token]) for place, token in enumerate(ids)]
            for ids in continuations
        ]


def labels(count: int, seed: int) -> list[list[int]]:
    """Values of 1 to 6 tokens, many of which begin alike, and each ended by the same token."""
    draw, found = random.Random(seed), set()
    while len(found) < count:
        found.add((*(min(draw.randrange(LAST), draw.randrange(LAST)) for _ in range(draw.randint(1, 6))), LAST))
    return [list(one) for one in draw.sample(sorted(found), count)]


@pytest.mark.parametrize("sharpness", [0.0, 1.0, 4.0])
@pytest.mark.parametrize("seed", range(6))
def test_the_best_value_is_exact_and_probabilities_are_as_near_as_promised(sharpness, seed):
    values = labels(77, seed)
    exact = decide(MadeUpModel(sharpness), [1], values, None, most_unseen=0.0)
    totals = [math.fsum(MadeUpModel(sharpness).all_of(value)) for value in values]
    whole = math.log(math.fsum(map(math.exp, totals)))
    assert exact.logprobs == pytest.approx([total - whole for total in totals], abs=1e-9)
    for most_unseen in (1e-4, 0.05):
        found = decide(MadeUpModel(sharpness), [1], values, None, most_unseen=most_unseen)
        assert found.best == exact.best
        assert sum(map(math.exp, found.logprobs)) == pytest.approx(1)
        off = [abs(math.exp(one) - math.exp(right)) for one, right in zip(found.logprobs, exact.logprobs, strict=True)]
        assert max(off) <= most_unseen


def test_a_model_that_is_sure_reads_a_small_part():
    values = labels(77, 3)
    model, whole = MadeUpModel(1.0, tuple(values[5])), MadeUpModel(1.0, tuple(values[5]))
    assert decide(model, [1], values, None).best == 5
    decide(whole, [1], values, None, most_unseen=0.0)
    assert len(model.read) < 0.1 * len(whole.read)


def test_values_given_twice_and_beginnings_of_others():
    values = [[5, 6, 7], [5, 6, 7], [5, 6], [8]]
    found = decide(MadeUpModel(1.0), [1], values, None, most_unseen=0.0)
    totals = [math.fsum(MadeUpModel(1.0).all_of(value)) for value in values]
    whole = math.log(math.fsum(map(math.exp, totals)))
    assert found.logprobs == pytest.approx([total - whole for total in totals], abs=1e-9)


@pytest.mark.parametrize("values", [[], [[1], []]])
def test_nothing_to_decide_is_an_error(values):
    with pytest.raises(ValueError, match="nothing to decide"):
        decide(None, [1], values, None)
    assert decide(None, [1], [[4, 5]], None).logprobs == (0.0,)

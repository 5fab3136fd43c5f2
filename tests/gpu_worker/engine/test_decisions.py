"""Deciding among allowed values: probabilities are those of transformers, whether or not values are ruled out."""

from __future__ import annotations

import contextlib
import math

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
            found = decide(core.likelihoods(), prompt, values, ref, cache_salt=salt, ruled_out=math.inf)
            assert found.logprobs == pytest.approx(right, abs=5e-4)
        assert sum(map(math.exp, found.logprobs)) == pytest.approx(1)
        assert found.best == max(range(len(right)), key=right.__getitem__)
        quick = decide(core.likelihoods(), prompt, values, ref, ruled_out=2.0)
        assert quick.best == found.best
    assert core._pool.free_blocks == free


def test_values_that_are_ruled_out_are_not_spelled_out():
    class Scorer:
        """Says first tokens, and counts what it has to spell out."""

        spelled: list[int] = []
        next_token = torch.tensor([-1.0, -2.0, -30.0, -40.0])

        @contextlib.contextmanager
        def behind(self, prompt, adapter, *, cache_salt):
            assert prompt == [1, 5]
            yield self

        def of(self, continuations):
            self.spelled += [ids[0] for ids in continuations]
            return [[-1.0, -35.0] if ids[0] == 0 else [-2.0, -31.0] for ids in continuations]

    scorer = Scorer()
    decision = decide(scorer, [1], [(5, 0, 9), (5, 1, 9), (5, 2, 9), (5, 3, 9)], None)
    # the likely ones turn out unlikely, which brings the third back into reach; the fourth stays a bound
    assert scorer.spelled == [0, 1, 2, 3]
    assert sum(map(math.exp, decision.logprobs)) == pytest.approx(1)
    scorer.spelled = []
    decide(scorer, [1], [(5, 2), (5, 3)], None)
    assert scorer.spelled == []


@pytest.mark.parametrize("values", [[], [[1], []]])
def test_nothing_to_decide_is_an_error(values):
    with pytest.raises(ValueError, match="nothing to decide"):
        decide(None, [1], values, None)
    assert decide(None, [1], [[4, 5]], None).logprobs == (0.0,)

"""Log probabilities of given continuations are those of transformers and PEFT, on both runners."""

import functools

import pytest
import torch

from gpu_worker.engine.build import build_core
from gpu_worker.engine.config import EngineConfig
from tests.gpu_worker.evaluator.test_evaluator import write_adapter

pytestmark = pytest.mark.slow
LENGTHS = (1, 15, 16, 17, 33)


@functools.cache
def loaded(model_dir, adapter):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    return PeftModel.from_pretrained(model, adapter) if adapter else model


def reference(model_dir, adapter, prompt, continuation):
    model = loaded(model_dir, adapter)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *continuation]])).logits[0]
    logprobs = logits[len(prompt) - 1 : -1].log_softmax(-1)
    return [float(logprobs[place, token]) for place, token in enumerate(continuation)]


@pytest.mark.parametrize("kind", ["decoder", "transformers"])
def test_each_token_is_as_likely_as_transformers_says(model_dir, renderer, tmp_path, kind):
    write_adapter(model_dir, tmp_path / "adapter")
    core = build_core(model_dir, renderer, EngineConfig(), kind=kind)
    core.add_adapter("a", core.read_adapter(tmp_path / "adapter"))
    chance = torch.Generator().manual_seed(1)
    draw = lambda count: torch.randint(3, 300, (count,), generator=chance).tolist()  # noqa: E731
    scorer, free = core.likelihoods(), core._pool.free_blocks
    for adapter in (None, core.find_adapter("a")):
        for length in LENGTHS:
            prompt, texts = draw(length), [draw(1), draw(3), draw(40)]
            found = scorer.of(prompt, texts, adapter)
            for text, logprobs in zip(texts, found, strict=True):
                folder = tmp_path / "adapter" if adapter else None
                assert logprobs == pytest.approx(reference(model_dir, folder, prompt, text), abs=2e-4)
    assert core._pool.free_blocks == free
    with pytest.raises(ValueError, match="too many"):
        scorer.of(draw(10), [draw(100_000)], None)


def test_a_text_longer_than_a_step_is_scored_piece_by_piece(model_dir, renderer, monkeypatch):
    core = build_core(model_dir, renderer, EngineConfig())
    ids = torch.randint(3, 300, (100,), generator=torch.Generator().manual_seed(2)).tolist()
    (whole,) = core.likelihoods().of(ids[:50], [ids[50:]], None)
    monkeypatch.setattr("gpu_worker.engine.likelihood.TOKENS_PER_STEP", 7)
    (pieces,) = core.likelihoods().of(ids[:50], [ids[50:]], None)
    assert pieces == pytest.approx(whole, abs=1e-4)


def test_texts_that_begin_alike_are_scored_as_if_alone(model_dir, renderer, tmp_path, monkeypatch):
    write_adapter(model_dir, tmp_path / "adapter")
    core = build_core(model_dir, renderer, EngineConfig())
    core.add_adapter("a", core.read_adapter(tmp_path / "adapter"))
    draw = torch.Generator().manual_seed(3)
    prompt = torch.randint(3, 300, (21,), generator=draw).tolist()
    stems = torch.randint(3, 300, (4, 19), generator=draw).tolist()
    texts = [[*stem[:cut], *end] for stem in stems for cut in (0, 1, 7, 19) for end in ([5, 6], [5, 7, 8], [9])]
    scorer, adapter, free = core.likelihoods(), core.find_adapter("a"), core._pool.free_blocks
    alone = [scorer.of(prompt, [text], adapter)[0] for text in texts]
    for most in (512, 30, 3):
        monkeypatch.setattr("gpu_worker.engine.likelihood.TOKENS_PER_STEP", most)
        for found, right in zip(scorer.of(prompt, texts, adapter, cache_salt="team"), alone, strict=True):
            assert found == pytest.approx(right, abs=2e-4)
    assert core._pool.free_blocks == free

"""Answers are weighed in pieces: the same losses and gradients, without all logits in memory at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from torch.nn import functional

from gpu_worker.trainer import answer_head
from gpu_worker.trainer.answer_head import AnswerHead
from tests.forked import Forked
from tests.gpu_worker.trainer.jobs import ROOT, ticket_rows, write_job

WIDTH, WORDS = 16, 300


def small_pieces(monkeypatch, rows: int) -> None:
    monkeypatch.setitem(answer_head.CHUNK_BYTES, "cpu", rows * 4 * WORDS)


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_pieces_add_up_to_the_whole(monkeypatch, rows):
    small_pieces(monkeypatch, rows)
    torch.manual_seed(1)
    head = torch.nn.Linear(WIDTH, WORDS).requires_grad_(False)
    hidden, labels = torch.randn(23, WIDTH), torch.randint(WORDS, (23,))
    weights = torch.randn(23)  # as preferences weigh answers, each in its own way
    whole, pieces = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    expected = -functional.cross_entropy(head(whole), labels, reduction="none")
    found = AnswerHead(head, WORDS, "cpu").logprobs(pieces, labels)
    torch.testing.assert_close(found, expected)
    (expected * weights).sum().backward()
    (found * weights).sum().backward()
    torch.testing.assert_close(pieces.grad, whole.grad)
    with torch.no_grad():
        torch.testing.assert_close(AnswerHead(head, WORDS, "cpu").logprobs(hidden, labels), expected.detach())


SIZES = {
    "vocab_size": WORDS, "hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
}  # fmt: skip


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("Llama", {}),
        ("Gemma2", {"final_logit_softcapping": 0.5}),
        ("Cohere", {"logit_scale": 0.25}),
        ("Granite", {"logits_scaling": 3.0}),
    ],
)
def test_what_models_do_with_their_logits_is_known(monkeypatch, family, changes):
    import transformers

    small_pieces(monkeypatch, 3)
    torch.manual_seed(2)
    config = getattr(transformers, f"{family}Config")(**SIZES, **changes)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval().requires_grad_(False)
    model.get_output_embeddings().weight.mul_(20)  # large logits, so that what is done with them shows
    head = AnswerHead.of(model, "cpu")
    assert head is not None
    token_ids = torch.arange(11)[None]
    with torch.no_grad():
        expected = model(input_ids=token_ids).logits[0].log_softmax(-1)
        hidden = model.get_decoder()(input_ids=token_ids).last_hidden_state[0]
    labels = torch.arange(20, 31)
    torch.testing.assert_close(head.logprobs(hidden, labels), expected[range(11), labels], rtol=1e-4, atol=1e-4)


def test_a_head_of_another_kind_or_one_that_is_trained_is_left_to_the_model():
    import transformers

    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES)).requires_grad_(False)
    assert AnswerHead.of(model, "cpu") is not None
    model.lm_head.requires_grad_(True)
    assert AnswerHead.of(model, "cpu") is None
    model.lm_head.requires_grad_(False)
    real = model.forward

    def forward(**given):
        found = real(**given)
        found.logits = found.logits.roll(1, dims=-1)
        return found

    model.forward = forward
    assert AnswerHead.of(model, "cpu") is None


# One step over long answers among many words, and by how much memory it rose.
MEASURE = """
import json, sys
import torch, transformers
from datasets_app.learned_rows import EncodedRow
from gpu_worker.trainer import answer_head
from gpu_worker.trainer.general import GeneralLearner
from gpu_worker.trainer.limits import memory_bytes, peak_memory_bytes
from gpu_worker.trainer.spec import JobFolder, read_spec
from pathlib import Path

root, pieces = Path(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
if pieces == "whole":
    answer_head.CHUNK_BYTES["cpu"] = 2**40
learner = GeneralLearner(read_spec(JobFolder(root)), device="cpu", why="test")
words = learner._causal_lm.config.vocab_size
rows = [EncodedRow(tuple((number * 997 + place) % words for place in range(400)), 8) for number in range(4)]
for tensor in learner.parameters.views(learner.parameters.values).values():
    tensor.normal_(std=0.02, generator=torch.Generator().manual_seed(1))
learner.accumulate([EncodedRow((1, 2, 3), 1)], 0.0)
before = memory_bytes("cpu")
loss = learner.accumulate(rows, 1 / 1568)
peak = peak_memory_bytes("cpu")
print(json.dumps({
    "loss": loss / 1568, "norm": float(learner.parameters.gradients.norm()), "rise": peak - before, "peak": peak,
}))
"""


@pytest.mark.slow
def test_long_answers_among_many_words_take_at_least_a_quarter_less_memory(tmp_path, base_model):
    import transformers

    folder = tmp_path / "wide"
    words = 50_000
    torch.manual_seed(3)
    config = transformers.LlamaConfig(**SIZES | {"vocab_size": words, "tie_word_embeddings": True})
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_text((base_model / name).read_text())
    job = write_job(tmp_path / "job", folder, train=ticket_rows(1), lora_r=4)
    found = {}
    for pieces in ("whole", "small"):
        child = Forked(
            [sys.executable, "-c", MEASURE, str(job.root), pieces],
            cwd=ROOT, env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        said, complained = child.communicate(timeout=100)
        assert child.returncode == 0, complained[-2000:]
        found[pieces] = json.loads(said)
    whole, small = found["whole"], found["small"]
    assert small["loss"] == pytest.approx(whole["loss"], abs=1e-3)
    assert small["norm"] == pytest.approx(whole["norm"], rel=1e-3)
    assert whole["rise"] > 3 * 1568 * words * 4 * 0.9  # logits, their softmax and its gradient
    assert small["rise"] < 0.25 * whole["rise"]
    assert small["peak"] < 0.75 * whole["peak"]

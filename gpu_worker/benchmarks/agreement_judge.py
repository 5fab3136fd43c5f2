"""What transformers with PEFT says to the questions of the agreement benchmark, one prompt at a time.

Where it would have chosen every token of an answer, given those before it, the answer is its own greedy one, and one
pass shows that. Where it would not, and for a sample in any case, it answers by itself. An answer that is held to a
schema is judged alike, among the tokens that the grammar allows.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from gpu_worker.engine.grammar import Grammar, GrammarState
from gpu_worker.engine.self_check import TIES, ReferenceAnswer, greedy_answer

GENERATED = 8
"""Prompts under each adapter that transformers answers token by token in any case."""


@dataclass(frozen=True)
class Question:
    """One prompt under one adapter."""

    adapter: str
    prompt: list[int]


@dataclass(frozen=True)
class Asked(Question):
    """A question, and what transformers answers."""

    right: ReferenceAnswer


@dataclass(frozen=True)
class Agreement:
    """How many answers are equal token for token, part at a tie, or part where there was none."""

    equal: int
    ties: int
    wrong: int


def agreement(asked: Sequence[Asked], answers: Sequence[list[int]]) -> Agreement:
    """Return how answers agree with the reference."""
    equal = ties = 0
    for one, answer in zip(asked, answers, strict=True):
        same = list(one.right.token_ids) == answer
        equal += same
        ties += not same and one.right.agrees(answer, TIES["fp32"])
    return Agreement(equal, ties, len(asked) - equal - ties)


def judged(
    model_dir: Path,
    adapters: Mapping[str, Path],
    questions: Sequence[Question],
    answers: Sequence[list[int]],
    *,
    limit: int,
    eos_ids: Collection[int],
    grammar: Grammar | None = None,
) -> list[Asked]:
    """Return what transformers says to each question, in float32; it is shown an answer that may be right."""
    base = AutoModelForCausalLM.from_pretrained(
        model_dir, dtype=torch.float32, local_files_only=True, use_safetensors=True
    )
    (first, path), *others = adapters.items()
    model: Any = PeftModel.from_pretrained(base, path, adapter_name=first)
    for name, other in others:
        model.load_adapter(other, adapter_name=name)
    model.eval()
    asked: list[Asked] = []
    seen: Counter[str] = Counter()
    for question, answer in zip(questions, answers, strict=True):
        if question.adapter not in seen:
            model.set_adapter(question.adapter)
        seen[question.adapter] += 1
        complete = len(answer) == limit or answer[-1] in eos_ids
        right = None
        if complete and seen[question.adapter] > GENERATED:
            right = _as_its_own(model, question.prompt, answer, _Held.start(grammar, eos_ids))
        if right is None and grammar is None:
            right = greedy_answer(model, question.prompt, limit)
        right = right or _held_answer(model, question.prompt, limit, _Held.start(grammar, eos_ids))
        asked.append(Asked(question.adapter, question.prompt, right))
    return asked


@dataclass
class _Held:
    """What may be chosen at each place of one answer: what its grammar allows, or everything."""

    state: GrammarState | None
    end: int
    """The token that ends an answer to which nothing can be added."""

    @classmethod
    def start(cls, grammar: Grammar | None, eos_ids: Collection[int]) -> "_Held":
        return cls(None if grammar is None else grammar.start(), min(eos_ids))

    def allowed(self, logits: Tensor) -> Tensor:
        if self.state is None:
            return logits
        if not self.state.finished:
            return self.state.mask(logits)
        only = torch.full_like(logits, float("-inf"))
        only[self.end] = logits[self.end]
        return only

    def accept(self, token: int) -> None:
        if self.state is not None and not self.state.finished:
            self.state.accept(token)


@torch.inference_mode()
def _as_its_own(model: Any, prompt: list[int], answer: list[int], held: _Held) -> ReferenceAnswer | None:
    """Return the answer with its margins if the model would have chosen every token of it; None if not."""
    logits = model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].float()
    margins = []
    for token, row in zip(answer, logits, strict=True):
        best = held.allowed(row).topk(2)
        if int(best.indices[0]) != token:
            return None
        margins.append(float(best.values[0] - best.values[1]))
        held.accept(token)
    return ReferenceAnswer(tuple(answer), tuple(margins))


@torch.inference_mode()
def _held_answer(model: Any, prompt: list[int], limit: int, held: _Held) -> ReferenceAnswer:
    """Return the greedy answer among the tokens that are allowed, computed token by token."""
    chosen: list[int] = []
    margins: list[float] = []
    out = model(input_ids=torch.tensor([prompt]), use_cache=True)
    while True:
        best = held.allowed(out.logits[0, -1].float()).topk(2)
        chosen.append(int(best.indices[0]))
        margins.append(float(best.values[0] - best.values[1]))
        if chosen[-1] == held.end or len(chosen) == limit:
            return ReferenceAnswer(tuple(chosen), tuple(margins))
        held.accept(chosen[-1])
        out = model(input_ids=torch.tensor([chosen[-1:]]), past_key_values=out.past_key_values, use_cache=True)

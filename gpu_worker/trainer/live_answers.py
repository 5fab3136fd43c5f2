"""Answers by the very model that learns, through transformers: wherever there is no room or no way for a second one.

So DoRA, starts from the base model, full fine-tuning, compressed base models and GPUs have answers while they train.
Prompts are answered some together, padded in front, and always greedily.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria

from datasets_app.rendering import ChatRenderer
from gpu_worker.engine.grammar import Grammar, GrammarBroken, GrammarState
from gpu_worker.trainer.answers import Answer, Terms

TOGETHER: Final = 8  # prompts: the weights are read once for all of them, and what time cuts off are few


class LiveAnswers:
    """A causal language model of transformers in evaluation mode, with whatever adapters are in its layers."""

    def __init__(self, model: Any, renderer: ChatRenderer, *, device: str) -> None:
        """`model`: its generation settings are replaced, since those of its folder are for chats."""
        self._model = model
        self._renderer = renderer
        self._device = device
        self._eos_ids = sorted(renderer.eos_ids)
        self.vocabulary = int(model.get_output_embeddings().weight.shape[0])

    def ask(self, prompts: Mapping[int, Sequence[int]], terms: Terms, grammar: Grammar | None) -> dict[int, Answer]:
        """Return the answers that ended in time."""
        # Short ones together, so that little is padded.
        by_length = sorted(prompts, key=lambda place: len(prompts[place]))
        ended: dict[int, Answer] = {}
        for first in range(0, len(by_length), TOGETHER):
            if terms.is_over():
                break
            places = by_length[first : first + TOGETHER]
            answers = self._together([prompts[place] for place in places], terms, grammar)
            ended |= {place: one for place, one in zip(places, answers, strict=True) if one is not None}
        return dict(sorted(ended.items()))

    def _together(self, prompts: Sequence[Sequence[int]], terms: Terms, grammar: Grammar | None) -> list[Answer | None]:
        """Return an answer to each prompt, None where it did not end in time."""
        token_ids, mask = padded_in_front(prompts)
        self._model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
            do_sample=False,
            max_new_tokens=terms.limit,
            eos_token_id=self._eos_ids,
            pad_token_id=self._eos_ids[0],
        )
        clock = _Clock(terms)
        bound = _Bound([grammar.start() for _ in prompts], self._eos_ids) if grammar else None
        written = self._model.generate(
            input_ids=token_ids.to(self._device),
            attention_mask=mask.to(self._device),
            stopping_criteria=[clock],
            logits_processor=[bound] if bound else [],
        )[:, token_ids.shape[1] :]
        stops = () if grammar else terms.stops
        return [self._answer(row, stops, cut=clock.struck) for row in written.tolist()]

    def _answer(self, written: list[int], stops: Sequence[str], *, cut: bool) -> Answer | None:
        ends = [place for place, token in enumerate(written) if token in self._eos_ids]
        # Behind its end, a row is filled up until the last one has ended.
        token_ids = written[: ends[0] + 1] if ends else written
        text = self._renderer.decode(token_ids[:-1] if ends else token_ids)
        found = [text.index(stop) for stop in stops if stop in text]
        if found:
            return Answer(text[: min(found)], tuple(token_ids), is_whole=True)
        return None if cut and not ends else Answer(text, tuple(token_ids), is_whole=bool(ends))


def padded_in_front(prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Return token ids (prompts, longest) whose ends stand side by side, and which of them are real, as 1 and 0."""
    longest = max(map(len, prompts))
    token_ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros(len(prompts), longest, dtype=torch.long)
    for number, prompt in enumerate(prompts):
        token_ids[number, longest - len(prompt) :] = torch.tensor(prompt)
        mask[number, longest - len(prompt) :] = 1
    return token_ids, mask


class _Clock(StoppingCriteria):
    """Ends everything when time is over."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self.struck = False

    def __call__(self, input_ids: Tensor, scores: Tensor, **_options: Any) -> Tensor:
        self.struck = self._terms.is_over()
        return torch.full((input_ids.shape[0],), self.struck, device=input_ids.device)


class _Bound(LogitsProcessor):
    """Lets each row go on only as its grammar allows."""

    def __init__(self, states: list[GrammarState], eos_ids: list[int]) -> None:
        self._states = states
        self._eos_ids = eos_ids
        self._ended = [False] * len(states)
        self._begun = False

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        allowed = []
        for number, (token, logits) in enumerate(zip(input_ids[:, -1].tolist(), scores.float().cpu(), strict=True)):
            if self._begun:
                self._accept(number, token)
            allowed.append(self._masked(number, logits))
        self._begun = True
        return torch.stack(allowed).to(scores)

    def _accept(self, number: int, token: int) -> None:
        state = self._states[number]
        self._ended[number] = self._ended[number] or token in self._eos_ids
        if not self._ended[number]:
            state.accept(token)  # it was allowed, or it would not have been chosen
            self._ended[number] = state.finished

    def _masked(self, number: int, logits: Tensor) -> Tensor:
        """Return the logits with what must not follow at minus infinity; after its end a row can only end."""
        if not self._ended[number]:
            try:
                return self._states[number].mask(logits)
            except GrammarBroken:  # it cannot go on: what there is counts as the answer
                self._ended[number] = True
        only_end = torch.full_like(logits, float("-inf"))
        only_end[self._eos_ids[0]] = 0
        return only_end

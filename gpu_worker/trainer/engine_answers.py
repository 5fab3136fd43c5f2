"""Answers by the serving engine, which is built for them with the adapter as it stands and given up again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from datasets_app.rendering import ChatRenderer
from gpu_worker.engine.build import build_core
from gpu_worker.engine.config import EngineConfig
from gpu_worker.engine.core import EngineCore
from gpu_worker.engine.grammar import Grammar
from gpu_worker.engine.memory import return_freed_memory
from gpu_worker.engine.sampling import SamplingParams
from gpu_worker.engine.sequence import FinishReason
from gpu_worker.engine.sequence import Sequence as Answering
from gpu_worker.trainer.answers import Answer, Terms

_ADAPTER = "sampled"


class EngineAnswers:
    """An engine with one adapter. It needs the base model's weights once more, as long as it lives."""

    def __init__(self, core: EngineCore, renderer: ChatRenderer) -> None:
        self._core = core
        self._renderer = renderer
        self.vocabulary = core.vocabulary

    def ask(self, prompts: Mapping[int, Sequence[int]], terms: Terms, grammar: Grammar | None) -> dict[int, Answer]:
        """Return the answers that ended in time."""
        # What is bound to a schema ends where the schema does.
        params = SamplingParams(terms.limit, stop=() if grammar else terms.stops)
        adapter = self._core.find_adapter(_ADAPTER)
        texts: dict[str, str] = {}
        tokens: dict[str, list[int]] = {}
        for place, prompt_ids in prompts.items():
            key = f"{place}-bound" if grammar else str(place)
            texts[key], tokens[key] = "", []
            sequence = Answering.create(
                key,
                tuple(prompt_ids),
                params,
                adapter=adapter,
                decode=self._renderer.decode,
                grammar=grammar.start() if grammar else None,
            )
            self._core.submit([sequence])
        ended: dict[int, Answer] = {}
        while self._core.busy and not terms.is_over():
            for output in self._core.step():
                key = output.sequence_id
                texts[key] += output.text
                tokens[key].extend(output.token_ids)
                if output.finish_reason is not None:
                    is_whole = output.finish_reason == FinishReason.STOP
                    ended[int(key.partition("-")[0])] = Answer(texts[key], tuple(tokens[key]), is_whole)
        return dict(sorted(ended.items()))

    def close(self) -> None:
        """Give up the engine and its copy of the base model."""
        del self._core


@contextlib.contextmanager
def engine_answers(model_dir: Path, renderer: ChatRenderer, adapter: Path, *, rows: int) -> Iterator[EngineAnswers]:
    """Lend an engine for some rows, with the adapter from its folder."""
    core = build_core(model_dir, renderer, EngineConfig(max_waiting=rows))
    core.add_adapter(_ADAPTER, core.read_adapter(adapter))
    answers = EngineAnswers(core, renderer)
    del core
    try:
        yield answers
    finally:
        answers.close()
        return_freed_memory()

"""Drive an engine core in tests: submit, step until done, collect."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets_app.rendering import ChatRenderer
from gpu_worker.engine.config import EngineConfig
from gpu_worker.engine.core import EngineCore
from gpu_worker.engine.decoder import DecoderRunner
from gpu_worker.engine.grammar import GrammarState
from gpu_worker.engine.sampling import SamplingParams
from gpu_worker.engine.sequence import FinishReason, Sequence


@dataclass
class Answer:
    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    finish_reason: FinishReason | None = None
    cached_tokens: int = 0
    error: str | None = None


@dataclass
class Driver:
    core: EngineCore
    renderer: ChatRenderer
    answers: dict[str, Answer] = field(default_factory=dict)

    def submit(
        self,
        name: str,
        prompt_ids: list[int],
        adapter: str | None = None,
        *,
        max_tokens: int = 12,
        grammar: GrammarState | None = None,
        cache_salt: str | None = None,
        **params: object,
    ) -> Sequence:
        sequence = Sequence.create(
            name,
            prompt_ids,
            SamplingParams(max_tokens=max_tokens, **params),  # type: ignore[arg-type]
            adapter=self.core.find_adapter(adapter) if adapter else None,
            decode=self.renderer.decode,
            grammar=grammar,
            cache_salt=cache_salt,
        )
        self.core.submit([sequence])
        self.answers[name] = Answer()
        return sequence

    def step(self) -> None:
        for output in self.core.step():
            answer = self.answers[output.sequence_id]
            answer.token_ids.extend(output.token_ids)
            answer.text += output.text
            answer.finish_reason = output.finish_reason
            answer.cached_tokens = output.cached_tokens
            answer.error = output.error

    def run(self) -> dict[str, Answer]:
        steps = 0
        while self.core.busy:
            self.step()
            steps += 1
            assert steps < 2000, "the engine does not come to an end"
        return self.answers

    def answer(
        self, prompt_ids: list[int], adapter: str | None = None, *, max_tokens: int = 12, **params: Any
    ) -> Answer:
        name = f"only-{len(self.answers)}"
        self.submit(name, prompt_ids, adapter, max_tokens=max_tokens, **params)
        return self.run()[name]


def make_driver(
    model_dir: Path,
    renderer: ChatRenderer,
    adapters: dict[str, Path],
    *,
    eos_ids: Iterable[int] | None = None,
    **limits: object,
) -> Driver:
    """Return an engine on the tiny model with room for about 2,000 tokens, and the adapters loaded."""
    options = {"kv_cache_bytes": 2**21, "max_context": 512, **limits}
    config = EngineConfig(**options)  # type: ignore[arg-type]
    runner = DecoderRunner.load(model_dir, config)
    core = EngineCore(runner, config, blocks=runner.blocks, eos_ids=eos_ids or renderer.eos_ids)
    for name, path in adapters.items():
        core.add_adapter(name, core.read_adapter(path))
    return Driver(core, renderer)

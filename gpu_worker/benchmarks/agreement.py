"""Are greedy answers those of transformers? Many prompts under several adapters, however requests are batched.

transformers answers one prompt at a time with PEFT; our engine answers them alone, batched and mixed, with and without
prefix cache and drafts. Where the two part, the reference's own logits say whether that was a tie, which rounding may
decide either way. `manage.py benchmark agreement` calls `run`.
"""

import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from datasets_app.rendering import ChatRenderer
from gpu_worker.benchmarks.serving_workload import prepare_workload
from gpu_worker.compiled import CACHE_VARIABLE
from gpu_worker.engine.config import EngineConfig
from gpu_worker.engine.core import EngineCore
from gpu_worker.engine.decoder import DecoderRunner
from gpu_worker.engine.sampling import SamplingParams
from gpu_worker.engine.self_check import TIES, ReferenceAnswer, greedy_answer
from gpu_worker.engine.sequence import Sequence as EngineSequence

PROMPTS, TRAINING_STEPS = 200, 24
MAX_TOKENS = 48


DEFAULT = EngineConfig()


@dataclass(frozen=True)
class Way:
    """One way of asking: how many requests at once, and what the engine may reuse and guess."""

    name: str
    in_flight: int
    mixed: bool = False
    config: EngineConfig = DEFAULT


BARE = EngineConfig(prefix_cache=False, draft_tokens=0)
WAYS = (
    Way("alone", 1),
    Way("alone, no prefix cache, no drafts", 1, config=BARE),
    Way("32 at once, one adapter after the other", 32),
    Way("32 at once, adapters mixed", 32, mixed=True),
    Way("32 at once, adapters mixed, no prefix cache", 32, mixed=True, config=EngineConfig(prefix_cache=False)),
    Way("32 at once, adapters mixed, no drafts", 32, mixed=True, config=EngineConfig(draft_tokens=0)),
    Way("32 at once, mixed, prompts in pieces of 24 tokens", 32, mixed=True, config=EngineConfig(prefill_tokens=24)),
)


@dataclass(frozen=True)
class Asked:
    """One prompt under one adapter, and what transformers answers."""

    adapter: str
    prompt: list[int]
    right: ReferenceAnswer


@dataclass(frozen=True)
class Agreement:
    """How many answers are equal token for token, part at a tie, or part where there was none."""

    equal: int
    ties: int
    wrong: int


def run(*, rows: Path | None, model_dir: Path, quick: bool = False, progress: Callable[[str], object] = print) -> str:
    """Compare all ways and return the Markdown section. `rows` as in the serving benchmark; `quick`: few prompts."""
    prompts, steps = (3, 2) if quick else (PROMPTS, TRAINING_STEPS)
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault(CACHE_VARIABLE, folder)  # with compiled kernels, as engines run
        progress(f"training one adapter for {steps} steps")
        workload = prepare_workload(rows, model_dir, Path(folder), requests=prompts, training_steps=steps)
        renderer = ChatRenderer.load(model_dir)
        ids = [renderer.prompt_ids(messages) for messages in workload.conversations]
        begun = time.monotonic()
        asked = reference_answers(model_dir, workload.adapters, ids, limit=min(MAX_TOKENS, workload.max_tokens))
        progress(f"transformers answered {len(asked)} times in {time.monotonic() - begun:.0f} s")
        found = {}
        for way in WAYS:
            found[way.name] = compare(way, asked, model_dir, renderer, workload.adapters)
            progress(f"{way.name}: {found[way.name]}")
    return render(found, prompts=len(ids), adapters=len(workload.adapters))


def reference_answers(
    model_dir: Path, adapters: Mapping[str, Path], prompts: Sequence[list[int]], *, limit: int
) -> list[Asked]:
    """Return what transformers' generate says to every prompt under every adapter, one at a time, in float32."""
    base = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32, local_files_only=True)
    (first, path), *others = adapters.items()
    model: Any = PeftModel.from_pretrained(base, path, adapter_name=first)
    for name, other in others:
        model.load_adapter(other, adapter_name=name)
    model.eval()
    asked = []
    for adapter in adapters:
        model.set_adapter(adapter)
        asked += [Asked(adapter, prompt, greedy_answer(model, prompt, limit)) for prompt in prompts]
    return asked


def compare(
    way: Way, asked: Sequence[Asked], model_dir: Path, renderer: ChatRenderer, adapters: Mapping[str, Path]
) -> Agreement:
    """Return how one way's answers agree with the reference."""
    config = replace(way.config, max_running=way.in_flight, max_waiting=len(asked))
    runner = DecoderRunner.load(model_dir, config)
    core = EngineCore(runner, config, blocks=runner.blocks, eos_ids=renderer.eos_ids)
    for name, path in adapters.items():
        core.add_adapter(name, core.read_adapter(path))
    order = list(range(len(asked)))
    if way.mixed:
        # the reference goes adapter by adapter; neighbours here have different ones
        per = len(asked) // len(adapters)
        order.sort(key=lambda number: (number % per, number // per))
    answers = _answers(core, [asked[number] for number in order], renderer)
    equal = ties = 0
    for number, answer in zip(order, answers, strict=True):
        right = asked[number].right
        equal += list(right.token_ids) == answer
        ties += list(right.token_ids) != answer and right.agrees(answer, TIES["fp32"])
    return Agreement(equal, ties, len(asked) - equal - ties)


def _answers(core: EngineCore, asked: Sequence[Asked], renderer: ChatRenderer) -> list[list[int]]:
    answers: dict[str, list[int]] = {}
    for number, one in enumerate(asked):
        params = SamplingParams(max_tokens=len(one.right.token_ids))
        adapter = core.find_adapter(one.adapter)
        sequence = EngineSequence.create(str(number), one.prompt, params, adapter=adapter, decode=renderer.decode)
        answers[sequence.id] = []
        core.submit([sequence])
    while core.busy:
        for output in core.step():
            answers[output.sequence_id].extend(output.token_ids)
    return list(answers.values())


def render(found: Mapping[str, Agreement], *, prompts: int, adapters: int) -> str:
    """Return the table and a sentence on what was done."""
    lines = [
        "## Agreement with transformers",
        "",
        f"Greedy answers of the float32 engine to {prompts} prompts under each of {adapters} LoRA adapters, token for "
        "token against transformers' generate with PEFT, one prompt at a time. A tie: two logits closer than "
        f"{TIES['fp32']}.",
        "",
        "| requests | equal | parted at a tie | parted otherwise |",
        "|---|---|---|---|",
    ]
    lines += [f"| {name} | {one.equal} | {one.ties} | {one.wrong} |" for name, one in found.items()]
    return "\n".join(lines)

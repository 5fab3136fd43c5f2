"""Does the engine say what transformers says, token for token, however requests are batched?

Our engine answers alone, batched and mixed, with and without prefix cache and drafts. transformers with PEFT judges one
prompt at a time: where it would have chosen every token of an answer, given those before it, the answer is its own
greedy one, and one pass shows that. Where it would not, and for a sample in any case, its generate says what is right.
Where an answer parts from that, transformers' own logits say whether it was a tie, which rounding may decide either
way. `manage.py benchmark agreement` calls `run`.
"""

import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
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
GENERATED = 8
"""Prompts under each adapter that transformers answers token by token in any case."""


DEFAULT = EngineConfig()


@dataclass(frozen=True)
class Way:
    """One way of asking: how many requests at once, and what the engine may reuse and guess."""

    name: str
    in_flight: int
    mixed: bool = False
    config: EngineConfig = DEFAULT
    each_once: bool = False
    """Whether each prompt is asked under one adapter only, in turn: what is slow is not asked three times."""


BARE = EngineConfig(prefix_cache=False, draft_tokens=0)
WAYS = (
    Way("alone", 1),
    Way("alone, no prefix cache, no drafts, adapters in turn", 1, config=BARE, each_once=True),
    Way("32 at once, one adapter after the other", 32),
    Way("32 at once, adapters mixed", 32, mixed=True),
    Way("32 at once, adapters mixed, no prefix cache", 32, mixed=True, config=EngineConfig(prefix_cache=False)),
    Way("32 at once, adapters mixed, no drafts", 32, mixed=True, config=EngineConfig(draft_tokens=0)),
    Way("32 at once, mixed, prompts in pieces of 24 tokens", 32, mixed=True, config=EngineConfig(prefill_tokens=24)),
)


PROPOSING = Way("32 at once, adapters mixed, neither prefix cache nor drafts", 32, mixed=True, config=BARE)
"""The answers that transformers is shown."""


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


def run(*, rows: Path | None, model_dir: Path, quick: bool = False, progress: Callable[[str], object] = print) -> str:
    """Compare all ways and return the Markdown section. `rows` as in the serving benchmark; `quick`: few prompts."""
    prompts, steps = (3, 2) if quick else (PROMPTS, TRAINING_STEPS)
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault(CACHE_VARIABLE, folder)  # with compiled kernels, as engines run
        progress(f"training one adapter for {steps} steps")
        workload = prepare_workload(rows, model_dir, Path(folder), requests=prompts, training_steps=steps)
        renderer = ChatRenderer.load(model_dir)
        ids = [renderer.prompt_ids(messages) for messages in workload.conversations]
        limit = min(MAX_TOKENS, workload.max_tokens)
        questions = [Question(adapter, prompt) for adapter in workload.adapters for prompt in ids]
        begun = time.monotonic()
        proposed = answers_of(PROPOSING, questions, [limit] * len(questions), model_dir, renderer, workload.adapters)
        progress(f"{PROPOSING.name}: {len(proposed)} answers in {time.monotonic() - begun:.0f} s")
        begun = time.monotonic()
        asked = judged(model_dir, workload.adapters, questions, proposed, limit=limit, eos_ids=renderer.eos_ids)
        found = {PROPOSING.name: agreement(asked, proposed)}
        progress(f"transformers judged them in {time.monotonic() - begun:.0f} s: {found[PROPOSING.name]}")
        for way in WAYS:
            begun = time.monotonic()
            found[way.name] = compare(way, asked, model_dir, renderer, workload.adapters)
            progress(f"{way.name}: {found[way.name]} in {time.monotonic() - begun:.0f} s")
    return render(found, prompts=len(ids), adapters=len(workload.adapters))


def judged(
    model_dir: Path,
    adapters: Mapping[str, Path],
    questions: Sequence[Question],
    answers: Sequence[list[int]],
    *,
    limit: int,
    eos_ids: Collection[int],
) -> list[Asked]:
    """Return what transformers says to each question, in float32; it is shown an answer that may be right."""
    base = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32, local_files_only=True)
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
            right = _as_its_own(model, question.prompt, answer)
        right = right or greedy_answer(model, question.prompt, limit)
        asked.append(Asked(question.adapter, question.prompt, right))
    return asked


@torch.inference_mode()
def _as_its_own(model: Any, prompt: list[int], answer: list[int]) -> ReferenceAnswer | None:
    """Return the answer with its margins if the model would have chosen every token of it; None if not."""
    logits = model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].float()
    best = logits.topk(2)
    if best.indices[:, 0].tolist() != answer:
        return None
    return ReferenceAnswer(tuple(answer), tuple((best.values[:, 0] - best.values[:, 1]).tolist()))


def compare(
    way: Way, asked: Sequence[Asked], model_dir: Path, renderer: ChatRenderer, adapters: Mapping[str, Path]
) -> Agreement:
    """Return how one way's answers agree with the reference."""
    if way.each_once:
        per, many = len(asked) // len(adapters), len(adapters)
        asked = [asked[number % many * per + number] for number in range(per)]
    limits = [len(one.right.token_ids) for one in asked]
    return agreement(asked, answers_of(way, asked, limits, model_dir, renderer, adapters))


def agreement(asked: Sequence[Asked], answers: Sequence[list[int]]) -> Agreement:
    """Return how answers agree with the reference."""
    equal = ties = 0
    for one, answer in zip(asked, answers, strict=True):
        same = list(one.right.token_ids) == answer
        equal += same
        ties += not same and one.right.agrees(answer, TIES["fp32"])
    return Agreement(equal, ties, len(asked) - equal - ties)


def answers_of(
    way: Way,
    questions: Sequence[Question],
    limits: Sequence[int],
    model_dir: Path,
    renderer: ChatRenderer,
    adapters: Mapping[str, Path],
) -> list[list[int]]:
    """Return the engine's answers, asked in one way, in the order of the questions."""
    config = replace(way.config, max_running=way.in_flight, max_waiting=len(questions))
    runner = DecoderRunner.load(model_dir, config)
    core = EngineCore(runner, config, blocks=runner.blocks, eos_ids=renderer.eos_ids)
    for name, path in adapters.items():
        core.add_adapter(name, core.read_adapter(path))
    order = list(range(len(questions)))
    if way.mixed:
        # the questions go adapter by adapter; neighbours here have different ones
        per = len(questions) // len(adapters)
        order.sort(key=lambda number: (number % per, number // per))
    found = _answers(core, [(questions[number], limits[number]) for number in order], renderer)
    answers = dict(zip(order, found, strict=True))
    return [answers[number] for number in range(len(questions))]


def _answers(core: EngineCore, asked: Sequence[tuple[Question, int]], renderer: ChatRenderer) -> list[list[int]]:
    answers: dict[str, list[int]] = {}
    for number, (one, limit) in enumerate(asked):
        params = SamplingParams(max_tokens=limit)
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
        "token against transformers with PEFT, one prompt at a time: answers that it would have chosen token by token "
        f"are right; for all others, and for {GENERATED} under each adapter in any case, its generate says what is. "
        f"A tie: two logits closer than {TIES['fp32']}.",
        "",
        "| requests | equal | parted at a tie | parted otherwise |",
        "|---|---|---|---|",
    ]
    lines += [f"| {name} | {one.equal} | {one.ties} | {one.wrong} |" for name, one in found.items()]
    return "\n".join(lines)

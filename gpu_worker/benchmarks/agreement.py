"""Does the engine say what transformers says, token for token, however requests are batched?

Our engine answers alone, batched and mixed, with and without prefix cache and drafts, free and held to a schema, whose
forced text is proposed or not. transformers with PEFT judges one prompt at a time: see `agreement_judge`. Where an
answer parts from its own, its logits say whether it was a tie, which rounding may decide either way. The adapters
answer differently, or nothing is compared: one that is taken for another is noticed. `manage.py benchmark agreement`
calls `run`.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from datasets_app.rendering import ChatRenderer
from gpu_worker.benchmarks import bars
from gpu_worker.benchmarks.agreement_judge import GENERATED, Agreement, Asked, Question, agreement, judged
from gpu_worker.benchmarks.bars import Bar
from gpu_worker.benchmarks.serving_workload import prepare_workload
from gpu_worker.compiled import CACHE_VARIABLE
from gpu_worker.engine.config import EngineConfig
from gpu_worker.engine.core import EngineCore
from gpu_worker.engine.decoder import DecoderRunner
from gpu_worker.engine.grammar import Grammar, GrammarCompiler
from gpu_worker.engine.sampling import SamplingParams
from gpu_worker.engine.self_check import TIES
from gpu_worker.engine.sequence import Sequence as EngineSequence

PROMPTS, TRAINING_STEPS = 200, 24
QUICK_PROMPTS, QUICK_STEPS = 3, 8
MAX_TOKENS = 48
MOST_ALIKE = 0.5
"""Share of prompts that two adapters may answer with the same words; above it, one could pass for the other."""

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
    within_schema: bool = False


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

HELD_WAYS = (
    Way("alone, within the schema, adapters in turn", 1, each_once=True, within_schema=True),
    Way("32 at once, adapters mixed, within the schema", 32, mixed=True, within_schema=True),
)

PROPOSING = Way("32 at once, adapters mixed, neither prefix cache nor drafts", 32, mixed=True, config=BARE)
HELD_PROPOSING = Way(
    "32 at once, adapters mixed, within the schema, neither prefix cache nor drafts",
    32,
    mixed=True,
    config=BARE,
    within_schema=True,
)
"""The answers that transformers is shown."""


@dataclass(frozen=True)
class Ground:
    """What all ways are asked of: a base model, its adapters, and the schema of those answers that are held to one."""

    model_dir: Path
    adapters: Mapping[str, Path]
    schema: dict[str, Any]
    renderer: ChatRenderer

    def grammar(self, way: Way) -> Grammar | None:
        """Return what the answers of a way are held to; None for nothing."""
        if not way.within_schema:
            return None
        vocabulary = json.loads((self.model_dir / "config.json").read_text(encoding="utf-8"))["vocab_size"]
        compiler = GrammarCompiler(self.model_dir, vocabulary=vocabulary, eos_ids=self.renderer.eos_ids)
        return compiler.compile(self.schema)


def run(*, rows: Path | None, model_dir: Path, quick: bool = False, progress: Callable[[str], object] = print) -> str:
    """Compare all ways and return the Markdown section. `rows` as in the serving benchmark; `quick`: few prompts.

    Raises: RuntimeError if the adapters answer alike, so that nothing would be learned.
    """
    prompts, steps = (QUICK_PROMPTS, QUICK_STEPS) if quick else (PROMPTS, TRAINING_STEPS)
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault(CACHE_VARIABLE, folder)  # with compiled kernels, as engines run
        progress(f"training each adapter for {steps} steps")
        workload = prepare_workload(rows, model_dir, Path(folder), requests=prompts, training_steps=steps)
        renderer = ChatRenderer.load(model_dir)
        ground = Ground(model_dir, workload.adapters, workload.schema, renderer)
        ids = [renderer.prompt_ids(messages) for messages in workload.conversations]
        questions = [Question(adapter, prompt) for adapter in workload.adapters for prompt in ids]
        limit = min(MAX_TOKENS, workload.max_tokens)
        found: dict[str, Agreement] = {}
        alike: dict[str, float] = {}
        for proposing, ways in ((PROPOSING, WAYS), (HELD_PROPOSING, HELD_WAYS)):
            form = "within the schema" if proposing.within_schema else "free"
            proposed = answers_of(proposing, questions, [limit] * len(questions), ground)
            alike[form] = require_different(proposed, adapters=len(workload.adapters))
            progress(f"{form}: at most {alike[form]:.0%} of two adapters' answers are the same")
            found |= _compared(proposing, ways, questions, proposed, ground, limit=limit, progress=progress)
    return render(found, prompts=len(ids), adapters=len(workload.adapters), alike=alike)


def _compared(
    proposing: Way,
    ways: Sequence[Way],
    questions: Sequence[Question],
    proposed: Sequence[list[int]],
    ground: Ground,
    *,
    limit: int,
    progress: Callable[[str], object],
) -> dict[str, Agreement]:
    """Have transformers judge what was proposed, and hold all ways against what it says."""
    begun = time.monotonic()
    eos_ids = ground.renderer.eos_ids
    grammar = ground.grammar(proposing)
    asked = judged(
        ground.model_dir, ground.adapters, questions, proposed, limit=limit, eos_ids=eos_ids, grammar=grammar
    )
    found = {proposing.name: agreement(asked, proposed)}
    progress(f"transformers judged {proposing.name} in {time.monotonic() - begun:.0f} s: {found[proposing.name]}")
    for way in ways:
        begun = time.monotonic()
        found[way.name] = compare(way, asked, ground)
        progress(f"{way.name}: {found[way.name]} in {time.monotonic() - begun:.0f} s")
    return found


def require_different(answers: Sequence[list[int]], *, adapters: int) -> float:
    """Return the largest share of prompts that two adapters answer alike; the answers come adapter by adapter.

    Raises: RuntimeError if it is so large that an adapter taken for another might not be noticed.
    """
    per = len(answers) // adapters
    by_adapter = [answers[number * per : (number + 1) * per] for number in range(adapters)]
    alike = max(sum(map(list.__eq__, one, other)) / per for one, other in combinations(by_adapter, 2))
    if alike > MOST_ALIKE:
        raise RuntimeError(f"Two adapters answer {alike:.0%} of the prompts alike: a mix-up would not be noticed.")
    return alike


def compare(way: Way, asked: Sequence[Asked], ground: Ground) -> Agreement:
    """Return how one way's answers agree with the reference."""
    if way.each_once:
        many = len(ground.adapters)
        per = len(asked) // many
        asked = [asked[number % many * per + number] for number in range(per)]
    limits = [len(one.right.token_ids) for one in asked]
    return agreement(asked, answers_of(way, asked, limits, ground))


def answers_of(way: Way, questions: Sequence[Question], limits: Sequence[int], ground: Ground) -> list[list[int]]:
    """Return the engine's answers, asked in one way, in the order of the questions."""
    config = replace(way.config, max_running=way.in_flight, max_waiting=len(questions))
    runner = DecoderRunner.load(ground.model_dir, config)
    core = EngineCore(runner, config, blocks=runner.blocks, eos_ids=ground.renderer.eos_ids)
    for name, path in ground.adapters.items():
        core.add_adapter(name, core.read_adapter(path))
    order = list(range(len(questions)))
    if way.mixed:
        # the questions go adapter by adapter; neighbours here have different ones
        per = len(questions) // len(ground.adapters)
        order.sort(key=lambda number: (number % per, number // per))
    asked = [(questions[number], limits[number]) for number in order]
    found = _answers(core, asked, ground.renderer, ground.grammar(way))
    answers = dict(zip(order, found, strict=True))
    return [answers[number] for number in range(len(questions))]


def _answers(
    core: EngineCore, asked: Sequence[tuple[Question, int]], renderer: ChatRenderer, grammar: Grammar | None
) -> list[list[int]]:
    answers: dict[str, list[int]] = {}
    for number, (one, limit) in enumerate(asked):
        params = SamplingParams(max_tokens=limit)
        adapter, state = core.find_adapter(one.adapter), grammar.start() if grammar else None
        sequence = EngineSequence.create(
            str(number), one.prompt, params, adapter=adapter, decode=renderer.decode, grammar=state
        )
        answers[sequence.id] = []
        core.submit([sequence])
    while core.busy:
        for output in core.step():
            answers[output.sequence_id].extend(output.token_ids)
    return list(answers.values())


def render(found: Mapping[str, Agreement], *, prompts: int, adapters: int, alike: Mapping[str, float]) -> str:
    """Return the table, a sentence on what was done, and the bar. `alike`: what `require_different` found, by form."""
    same = ", ".join(f"{share:.0%} {form}" for form, share in alike.items())
    lines = [
        "## Agreement with transformers",
        "",
        f"Greedy answers of the float32 engine to {prompts} prompts under each of {adapters} LoRA adapters, token for "
        "token against transformers with PEFT, one prompt at a time: answers that it would have chosen token by token "
        f"are right; for all others, and for {GENERATED} under each adapter in any case, it says itself what is. "
        "Within a schema both choose among the tokens that the grammar allows. The adapters learned the same rows with "
        f"differently named answers: of what two of them say, at most {same} is the same. "
        f"A tie: two logits closer than {TIES['fp32']}.",
        "",
        "| requests | equal | parted at a tie | parted otherwise |",
        "|---|---|---|---|",
    ]
    lines += [f"| {name} | {one.equal} | {one.ties} | {one.wrong} |" for name, one in found.items()]
    wrong = sum(one.wrong for one in found.values())
    bar = Bar.at_most("answers that part from transformers' otherwise than at a tie, all ways", 0, wrong, "{:.0f}")
    return "\n".join([*lines, "", bars.table([bar])])

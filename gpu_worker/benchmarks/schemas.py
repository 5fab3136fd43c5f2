"""Do answers keep to their schema? Asked of the engine with many schemas at once, greedy and sampled.

An answer has to be valid JSON for its schema, or to say that it was cut by its length. The base model is asked as it
is: what was never trained to write JSON is the hardest to hold. `manage.py benchmark schemas` calls `run`.
"""

import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema

from datasets_app.rendering import ChatRenderer
from gpu_worker.benchmarks import bars
from gpu_worker.benchmarks.bars import Bar
from gpu_worker.benchmarks.schema_requests import SchemaRequest, schema_requests
from gpu_worker.compiled import CACHE_VARIABLE
from gpu_worker.engine.config import EngineConfig
from gpu_worker.engine.core import EngineCore
from gpu_worker.engine.decoder import DecoderRunner
from gpu_worker.engine.errors import BadRequest
from gpu_worker.engine.grammar import Grammar, GrammarCompiler
from gpu_worker.engine.sampling import SamplingParams
from gpu_worker.engine.sequence import FinishReason
from gpu_worker.engine.sequence import Sequence as EngineSequence

PROMPTS, SCHEMAS, MAX_TOKENS = 1000, 80, 128
QUICK_PROMPTS, QUICK_SCHEMAS = 40, 20
TEMPERATURE = 1.0
VALID, LENGTH, INVALID, FAILED, REFUSED = "valid", "length", "invalid", "failed", "refused"
VERDICTS = (VALID, LENGTH, INVALID, FAILED, REFUSED)
# what is more than a form, such as days that exist, no schema can hold a generator to
FORMATS = jsonschema.FormatChecker(formats=("uuid", "ipv4", "email"))


@dataclass(frozen=True)
class Answer:
    """What the engine said, and why it ended there."""

    text: str
    reason: FinishReason


def run(*, rows: Path | None, model_dir: Path, quick: bool = False, progress: Callable[[str], object] = print) -> str:
    """Ask all prompts and return the Markdown section. `rows` is not used: prompts are made. `quick`: few prompts."""
    requests = schema_requests(*((QUICK_PROMPTS, QUICK_SCHEMAS) if quick else (PROMPTS, SCHEMAS)))
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault(CACHE_VARIABLE, folder)  # with compiled kernels, as engines run
        config = EngineConfig(max_waiting=len(requests))
        runner, renderer = DecoderRunner.load(model_dir, config), ChatRenderer.load(model_dir)
        core = EngineCore(runner, config, blocks=runner.blocks, eos_ids=renderer.eos_ids)
        answers = ask(core, renderer, model_dir, requests, progress=progress)
    found = [judge(answer, request.schema) for answer, request in zip(answers, requests, strict=True)]
    progress(f"{dict(Counter(found))} in {time.monotonic() - begun:.0f} s")
    for number, verdict in enumerate(found):
        if verdict in (INVALID, FAILED):
            progress(f"request {number}: {answers[number]} for {json.dumps(requests[number].schema)}")
    return render(requests, found)


def ask(
    core: EngineCore,
    renderer: ChatRenderer,
    model_dir: Path,
    requests: Sequence[SchemaRequest],
    *,
    progress: Callable[[str], object],
) -> list[Answer | None]:
    """Return the answers, all requests in the same steps; None where the schema is not taken."""
    compiler = GrammarCompiler(model_dir, vocabulary=core.vocabulary, eos_ids=renderer.eos_ids)
    texts: dict[str, str] = {}
    reasons: dict[str, FinishReason] = {}
    for number, request in enumerate(requests):
        try:
            grammar = compiler.compile(request.schema)
        except BadRequest as error:
            progress(f"request {number} is refused: {error}")
            continue
        sequence = _sequence(str(number), request, renderer, grammar)
        texts[sequence.id] = ""
        core.submit([sequence])
    while core.busy:
        for output in core.step():
            texts[output.sequence_id] += output.text
            if output.finish_reason is not None:
                reasons[output.sequence_id] = output.finish_reason
                if len(reasons) % 100 == 0:
                    progress(f"{len(reasons)} answers")
    names = [str(number) for number in range(len(requests))]
    return [Answer(texts[name], reasons[name]) if name in texts else None for name in names]


def _sequence(name: str, request: SchemaRequest, renderer: ChatRenderer, grammar: Grammar) -> EngineSequence:
    sampled = request.seed is not None
    params = SamplingParams(
        max_tokens=MAX_TOKENS, temperature=TEMPERATURE if sampled else 0.0, seed=request.seed if sampled else None
    )
    prompt = renderer.prompt_ids([{"role": "user", "content": request.prompt}])
    return EngineSequence.create(
        name, prompt, params, adapter=None, decode=renderer.decode, grammar=grammar.start(), cache_salt="benchmark"
    )


def judge(answer: Answer | None, schema: dict[str, Any]) -> str:
    """Return the verdict on one answer."""
    if answer is None:
        return REFUSED
    if answer.reason != FinishReason.STOP:
        return LENGTH if answer.reason == FinishReason.LENGTH else FAILED
    try:
        value = json.loads(answer.text, object_pairs_hook=_without_repetition)
        jsonschema.Draft202012Validator(schema, format_checker=FORMATS).validate(value)
    except (ValueError, jsonschema.ValidationError):
        return INVALID
    return VALID


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def render(requests: Sequence[SchemaRequest], found: Sequence[str]) -> str:
    """Return the table, a sentence on what was done, and the bar. `found`: the verdicts."""
    schemas = len({json.dumps(one.schema) for one in requests})
    known = len({json.dumps(one.schema) for one in requests if one.is_known})
    counts: dict[str, Counter[str]] = {}
    for request, verdict in zip(requests, found, strict=True):
        counts.setdefault(request.kind, Counter())[verdict] += 1
    lines = [
        "## Answers within schemas",
        "",
        f"{len(requests):,} different prompts that want to break out to the untuned base model over {schemas} schemas: "
        f"every second one over {known} schemas of answers that datasets have, the others over made ones (enums, texts "
        "with limits, patterns, formats, numbers with bounds, arrays, nested and referred objects, optional fields); "
        f"half greedy, half sampled at temperature {TEMPERATURE:g}, at most {MAX_TOKENS} tokens, many at once. Each "
        "answer is parsed and validated with jsonschema.",
        "",
        "| prompts | valid | cut by its length, and said so | invalid | failed | schema refused before |",
        "|---|---|---|---|---|---|",
        *(_line(kind, one) for kind, one in sorted(counts.items())),
        _line("**all**", Counter(found)),
    ]
    return "\n".join([*lines, "", bars.table([_bar(Counter(found))])])


def _line(kind: str, counts: Counter[str]) -> str:
    return f"| {kind} | {' | '.join(f'{counts[verdict]:,}' for verdict in VERDICTS)} |"


def _bar(counts: Counter[str]) -> Bar:
    asked = sum(counts.values())
    kept = (counts[VALID] + counts[LENGTH]) / asked if asked else None
    return Bar.at_least("answers that are valid, or cut and said so", 1.0, kept, "{:.2%}")

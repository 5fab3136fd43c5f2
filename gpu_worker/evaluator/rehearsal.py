"""A small piece of every kind of answering that a run will do, to tell how long all of it takes. Nothing is kept."""

import contextlib
import json
import random
import time
from collections.abc import Callable
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from datasets_app.rendering import ChatRenderer
from experiments.hyperparameters import Hyperparameters
from experiments.scoring.against import is_free_text
from experiments.scoring.names import TUNED, UNTUNED
from experiments.trials import LEAST_ASKED_ROWS, MOST_CALIBRATION_ROWS, MOST_WRITTEN_ROWS
from gpu_worker.engine.build import build_core
from gpu_worker.engine.config import EngineConfig
from gpu_worker.engine.core import EngineCore
from gpu_worker.engine.errors import EngineError
from gpu_worker.engine.sampling import SamplingParams
from gpu_worker.engine.sequence import AdapterRef, Sequence
from gpu_worker.evaluator.baselines import Messages, answer_simply
from gpu_worker.evaluator.bound import CACHE_SALT, MOST_AT_ONCE, Bound, bind
from gpu_worker.evaluator.expected import expected_nats
from gpu_worker.evaluator.heldout import Supply, choose_rows
from gpu_worker.trainer.events import Events
from gpu_worker.trainer.heldout import HeldOutRow, answer_limit
from gpu_worker.trainer.limits import peak_memory_bytes
from gpu_worker.trainer.rows import read_messages
from gpu_worker.trainer.stop import StopFlag

# As many rows as the evaluator's engine works on at once; each kind of asking is cut off after some seconds.
ASKED_ROWS, ASKING_S = 32, 20.0
# What the simple baselines take grows with the rows they learn from: so many are tried, and what all take is bounded.
BASELINE_ROWS, MOST_BASELINE_S = 400, 25.0


@dataclass(frozen=True)
class Rehearsed:
    """Seconds: of building an engine; of a row answered at the length of its right answer, and by the untuned model.

    `scored_row_s`: of a row whose allowed values are scored, `likelihood_row_s`: of a row whose expected text is
    weighed under both models, 0 where the report does without; `baseline_s`: of both simple baselines. Then how many
    rows there are to do; `sure_rows`: of the evaluated ones those that are asked however long it takes.
    `peak_memory_bytes`: of this process while it answered as at a validation check.
    """

    answering_build_s: float
    answering_row_s: float
    untuned_row_s: float
    scored_row_s: float
    likelihood_row_s: float
    baseline_s: float
    sampled_rows: int
    evaluated_rows: int
    calibration_rows: int
    written_rows: int
    sure_rows: int
    peak_memory_bytes: int


def rehearse(
    job_dir: Path,
    model_dir: Path,
    write_adapter: Callable[[], Path],
    chosen: Hyperparameters,
    renderer: ChatRenderer,
    events: Events,
    stop: StopFlag,
) -> Rehearsed | None:
    """Answer some rows in every way the run will; None if nothing was answered in time.

    `write_adapter` writes the adapter as it stands and returns its folder.
    Raises: StopRequested; TrainingError, EngineError, OSError if rows, base model or adapter cannot be used.
    """
    supply = Supply.of(job_dir / "data")
    name = "heldout" if supply.apart else "validation" if supply.validation else "train"
    rows = choose_rows(job_dir / "data" / f"{name}.jsonl", renderer, count=ASKED_ROWS, seed=chosen.seed)
    learned = [messages for _number, messages in read_messages(job_dir / "data" / "train.jsonl")]
    schema = json.loads((job_dir / "spec.json").read_text(encoding="utf-8")).get("schema")
    started = time.perf_counter()
    core = build_core(model_dir, renderer, EngineConfig(max_waiting=ASKED_ROWS))
    core.add_adapter(TUNED, core.read_adapter(write_adapter()))
    tuned = core.find_adapter(TUNED)
    build_s = time.perf_counter() - started
    # A trained model answers as briefly as the rows that it learned from; one of twenty steps does not yet.
    some = rows[: chosen.sample_rows or ASKED_ROWS]
    answering_s = _row_s(core, renderer, stop, some, tuned, [row.answer_tokens for row in some], to_the_end=True)
    peak = peak_memory_bytes("cpu")
    limit = answer_limit(rows, chosen.max_new_tokens)
    untuned_s = _row_s(core, renderer, stop, rows, None, [limit] * len(rows), to_the_end=False)
    if answering_s is None or untuned_s is None:
        return None
    few = rows[:MOST_AT_ONCE]
    bound = bind(core, renderer, model_dir, lambda: learned, schema, tuned, events)
    is_text = is_free_text([row.expected for row in rows])
    models = {TUNED: tuned, UNTUNED: None}
    evaluated = supply.asked(chosen.evaluation_rows)
    calibrating = min(evaluated, MOST_CALIBRATION_ROWS, supply.spare(evaluated))
    written = min(calibrating, MOST_WRITTEN_ROWS) if bound is not None and bound.chooser.needs_answers else 0
    return Rehearsed(
        answering_build_s=build_s,
        answering_row_s=answering_s,
        untuned_row_s=untuned_s,
        scored_row_s=_scoring_s(bound, few) / len(few),
        likelihood_row_s=(
            _seconds(lambda: expected_nats(core.likelihoods(), renderer, few, models, events, stop)) / len(few)
            if is_text
            else 0.0
        ),
        baseline_s=_baseline_s(learned, [row.question for row in rows], stop),
        sampled_rows=min(chosen.sample_rows, supply.validation),
        evaluated_rows=evaluated,
        calibration_rows=written or calibrating,
        written_rows=written,
        sure_rows=evaluated if chosen.evaluation_rows else min(evaluated, LEAST_ASKED_ROWS),
        peak_memory_bytes=peak,
    )


def _row_s(
    core: EngineCore,
    renderer: ChatRenderer,
    stop: StopFlag,
    rows: Rows[HeldOutRow],
    adapter: AdapterRef | None,
    tokens: Rows[int],
    *,
    to_the_end: bool,
) -> float | None:
    """Return the seconds that a row takes when its answer has at most `tokens`, or just as many if `to_the_end`.

    What does not fit into ASKING_S is reckoned by the tokens that are missing; None if not one was there by then.
    """
    missing: dict[str, int] = {}
    for number, (row, count) in enumerate(zip(rows, tokens, strict=True)):
        sequence = Sequence.create(
            f"{number}",
            row.prompt_ids,
            SamplingParams(count, ignore_eos=to_the_end),
            adapter=adapter,
            decode=renderer.decode,
            cache_salt=CACHE_SALT,
        )
        try:
            core.submit([sequence])
            missing[f"{number}"] = count
        except EngineError:  # too long for the model: the report counts it as unanswered
            continue
    asked, produced, started = len(missing), 0, time.perf_counter()
    while core.busy and time.perf_counter() - started < ASKING_S:
        stop.check()
        for output in core.step():
            produced += len(output.token_ids)
            missing[output.sequence_id] -= len(output.token_ids)
            if output.finish_reason is not None:
                del missing[output.sequence_id]
    passed = time.perf_counter() - started
    for name in missing:
        core.cancel(name)
    return passed * (1 + sum(missing.values()) / produced) / asked if produced else None


def _scoring_s(bound: Bound | None, rows: Rows[HeldOutRow]) -> float:
    """Return what choosing among the allowed values takes, a few rows together; 0 where the report does not."""
    if bound is None or not bound.chooser.closed:
        return 0.0
    tasks = [partial(bound.chooser.answer, row.prompt_ids, row.expected) for row in rows]
    with contextlib.suppress(ValueError):  # too long for the model: the report does without, too
        return _seconds(partial(bound.together.run, tasks))
    return 0.0


def _baseline_s(learned: Rows[Messages], asked: Rows[str], stop: StopFlag) -> float:
    """Return what the simple baselines take to learn all rows: as long as some, times how many more there are."""
    some = random.Random(0).sample(list(learned), min(BASELINE_ROWS, len(learned)))  # noqa: S311 - no secret
    with contextlib.suppress(ValueError, LookupError, TypeError, MemoryError):  # then the report does without
        passed = _seconds(lambda: answer_simply(some, asked, check=stop.check))
        return min(MOST_BASELINE_S, passed * len(learned) / len(some))
    return 0.0


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started

"""One evaluation: choose rows, let both models answer them in one batch, write the answers down."""

import contextlib
import json
import math
import time
from collections.abc import Sequence as Rows
from dataclasses import asdict
from functools import cache
from pathlib import Path

from datasets_app.rendering import ChatRenderer
from experiments.hyperparameters import Hyperparameters, stops_in
from experiments.problem_file import Problem, read_problem
from experiments.scoring.against import is_free_text
from experiments.scoring.names import CONSTRAINED, MAJORITY, MODELS, OTHERS, SCORED, TFIDF, TUNED, UNTUNED
from experiments.trials import LEAST_SCORING_S, SCORING_SHARE, asking_limit_s
from gpu_worker.engine.build import RunnerKind, build_core
from gpu_worker.engine.config import EngineConfig
from gpu_worker.engine.core import EngineCore
from gpu_worker.engine.errors import EngineError
from gpu_worker.engine.grammar import Grammar, GrammarCompiler
from gpu_worker.engine.sampling import SamplingParams
from gpu_worker.engine.sequence import AdapterRef
from gpu_worker.evaluator.baselines import Messages, answer_simply
from gpu_worker.evaluator.bound import (
    Bound,
    ScoredRows,
    bind,
    calibration_rows,
    rows_to_calibrate_by,
    score_closed_fields,
)
from gpu_worker.evaluator.expected import Nats, expected_nats
from gpu_worker.evaluator.heldout import Answer, Supply, choose_rows, read_lines
from gpu_worker.evaluator.problems import ProblemScorer, measure_problem
from gpu_worker.evaluator.questions import Questions
from gpu_worker.trainer.errors import TrainingError
from gpu_worker.trainer.events import Events
from gpu_worker.trainer.heldout import HeldOutRow, answer_limit
from gpu_worker.trainer.rows import read_messages
from gpu_worker.trainer.spec import JobFolder
from gpu_worker.trainer.stop import StopFlag
from gpu_worker.trainer.storage import publish_text


def evaluate(job_dir: Path, events: Events, stop: StopFlag) -> None:
    """Write evaluation/predictions.jsonl for the job.

    Raises: TrainingError for a job that cannot be evaluated, StopRequested when asked to stop.
    """
    started = time.monotonic()
    spec = json.loads((job_dir / "spec.json").read_text(encoding="utf-8"))
    events.emit("phase", phase="evaluating")
    wanted = spec["evaluation"]
    seed = int(wanted["seed"])
    model_dir = Path(spec["base_model"]["path"])
    renderer = ChatRenderer.load(model_dir)
    problem = _read_problem(job_dir / "adapter")
    most = Supply.of(job_dir / "data").asked(int(wanted["rows"]))
    rows = choose_rows(job_dir / "data" / "heldout.jsonl", renderer, count=most, seed=seed, problem=problem)
    asks_untuned = bool(wanted.get("untuned", True))
    # Of a problem type's rows, more is asked than their answers.
    known = {} if problem or not asks_untuned else _known_answers(job_dir / "evaluation" / "untuned-cache.jsonl", rows)
    limit = answer_limit(rows, int(wanted["max_new_tokens"]))
    config = EngineConfig(max_waiting=3 * len(rows))
    core = build_core(model_dir, renderer, config, kind=runner_for(job_dir / "adapter"))
    tuned = _load_adapter(core, job_dir / "adapter")
    params = SamplingParams(
        limit,
        wanted.get("temperature", 0.0),
        wanted.get("top_p", 1.0),
        int(wanted.get("top_k", 0)),
        seed=seed,
        stop=stops_in(wanted.get("stop_texts", "")),
    )
    asked = Questions(core, renderer, params, _grammar(problem, core, model_dir, renderer))
    writes_freely = problem is None or problem.problem_type == "preference"
    training_rows = cache(lambda: _training_rows(job_dir / "data" / "train.jsonl", events))
    bound = None
    if writes_freely:
        bound = bind(core, renderer, model_dir, training_rows, spec.get("schema"), tuned, events)
    asking = time.monotonic()
    models = {TUNED: tuned, UNTUNED: None} if asks_untuned else {TUNED: tuned}
    limit_s = math.inf if wanted["rows"] else asking_limit_s(_training_s(job_dir))
    rows = asked.ask_in_time(rows, models, {UNTUNED: known}, events, stop, limit_s=limit_s, seed=seed)
    unasked: list[HeldOutRow] = []
    if bound is not None:
        unasked, written = rows_to_calibrate_by(bound, job_dir, rows, seed)
        known_already = asked.copy_conforming(TUNED, CONSTRAINED, rows, bound.grammar)
        others = [row for row in rows if row.row not in known_already]
        asked.put(CONSTRAINED, [*others, *written], tuned, bound.grammar)
        asked.run(events, stop)
    answers = asked.answers
    asking_s = time.monotonic() - asking
    scoring_s = max(LEAST_SCORING_S, float(wanted.get("scoring_share", SCORING_SHARE)) * asking_s)
    scored = score_closed_fields(bound, rows, unasked, answers, events, stop, limit_s=scoring_s) if bound else None
    if problem:
        chosen = Hyperparameters.model_validate(spec.get("hyperparameters", {}))
        scorer = ProblemScorer(core, renderer, problem, chosen)
        contents = [row.content for row in rows]
        unasked = calibration_rows(job_dir, renderer, rows, seed) if problem.labels else []
        measure_problem(
            scorer, problem, contents, {TUNED: tuned, UNTUNED: None}, job_dir / "evaluation", events, stop,
            calibration=[row.content for row in unasked],
            limit_s=math.inf if wanted["rows"] else max(LEAST_SCORING_S, asking_s),
        )  # fmt: skip
    learns_answers = problem is None or problem.problem_type != "pretraining"
    simple = _ask_baselines(training_rows(), rows, events, stop) if learns_answers else {}
    if scored is not None:
        answers |= {(SCORED, row): Answer(text, "stop") for row, text in scored.answers.items()}
    _write_schema(job_dir / "evaluation", bound, scored, config)
    nats: dict[int, Nats] = {}
    if problem is None and is_free_text([row.expected for row in rows]):
        nats = expected_nats(core.likelihoods(), renderer, rows, {TUNED: tuned, UNTUNED: None}, events, stop)
    _write(job_dir / "evaluation", rows, answers | simple, scored, nats)
    events.emit("evaluated", rows=len(rows), seconds=round(time.monotonic() - started, 1))


def _read_problem(adapter: Path) -> Problem | None:
    try:
        return read_problem(adapter)
    except ValueError as error:
        raise TrainingError("internal", f"The adapter cannot be evaluated: {error}.") from error


def _grammar(problem: Problem | None, core: EngineCore, model_dir: Path, renderer: ChatRenderer) -> Grammar | None:
    """Return what every answer is held to, as it is when the adapter is served; None for free text."""
    if problem is None or not problem.grammar:
        return None
    compiler = GrammarCompiler(model_dir, vocabulary=core.vocabulary, eos_ids=renderer.eos_ids)
    return compiler.compile_lark(problem.grammar)


def runner_for(adapter: Path) -> RunnerKind:
    """Return which runner answers: adapters that are more than a low-rank product need PEFT's own arithmetic."""
    try:
        config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "auto"  # loading it says what is wrong
    return "transformers" if config.get("use_dora") else "auto"


def _load_adapter(core: EngineCore, folder: Path) -> AdapterRef:
    try:
        core.add_adapter(TUNED, core.read_adapter(folder))
    except EngineError as error:
        raise TrainingError("internal", f"The adapter cannot be evaluated: {error}") from error
    return core.find_adapter(TUNED)


def _known_answers(path: Path, rows: Rows[HeldOutRow]) -> dict[int, Answer]:
    """Return what an earlier run found the untuned model to answer to these rows, as far as it was asked."""
    if not path.exists():
        return {}
    found = {(item["row"], item["prompt"], item["expected"]): item for item in map(json.loads, read_lines(path))}
    rows_found = {row.row: found.get((row.row, row.prompt, row.expected)) for row in rows}
    return {row: Answer(item["untuned"], item["untuned_finish"]) for row, item in rows_found.items() if item}


def _training_s(job_dir: Path) -> float:
    """Return how long the model has learned, as its trainer has noted; 0 where nothing was learned here."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        return float(json.loads(JobFolder(job_dir).report.read_text(encoding="utf-8"))["seconds"])
    return 0.0


def _training_rows(path: Path, events: Events) -> list[Messages]:
    """Return the conversations that were learned, none if they cannot be read."""
    try:
        return [messages for _number, messages in read_messages(path)]
    except TrainingError as error:
        events.log(error.message, level="warning")
        return []


def _ask_baselines(
    train: Rows[Messages], rows: Rows[HeldOutRow], events: Events, stop: StopFlag
) -> dict[tuple[str, int], Answer]:
    """Return what the simple baselines answer, or nothing if they cannot learn: a report without them is still one."""
    try:
        found = answer_simply(train, [row.question for row in rows], check=stop.check)
    except (ValueError, LookupError, TypeError, MemoryError) as error:
        events.log(f"There is no simple baseline to compare with: {type(error).__name__}.", level="warning")
        return {}
    by_name = {MAJORITY: found.majority, TFIDF: found.tfidf}
    return {
        (subject, row.row): Answer(text, "stop")
        for subject, texts in by_name.items()
        for row, text in zip(rows, texts, strict=True)
    }


def _write_schema(folder: Path, bound: Bound | None, scored: ScoredRows | None, config: EngineConfig) -> None:
    """Write what the answers were bound to, and what was learned about confidence, for whoever judges them."""
    folder.mkdir(exist_ok=True)
    content = {
        "schema": bound.schema if bound else None,
        "calibration": scored.calibration if scored else None,
        "ranking": [asdict(one) for one in scored.ranking] if scored else [],
        "weights": config.weights,
    }
    publish_text(folder / "ways.json", json.dumps(content, ensure_ascii=False))


def _write(
    folder: Path,
    rows: Rows[HeldOutRow],
    answers: dict[tuple[str, int], Answer],
    scored: ScoredRows | None,
    nats: dict[int, Nats],
) -> None:
    folder.mkdir(exist_ok=True)
    lines = [_line(row, answers, scored) | ({"nats": nats[row.row]} if row.row in nats else {}) for row in rows]
    publish_text(folder / "predictions.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def _line(row: HeldOutRow, answers: dict[tuple[str, int], Answer], scored: ScoredRows | None) -> dict[str, object]:
    line: dict[str, object] = {"row": row.row, "place": row.place, "prompt": row.prompt, "expected": row.expected}
    for model in MODELS:
        if (model, row.row) in answers:  # the untuned one may not have been asked
            line |= {model: answers[model, row.row].text, f"{model}_finish": answers[model, row.row].finish}
    line |= {subject: answers[subject, row.row].text for subject in OTHERS if (subject, row.row) in answers}
    if scored is not None and row.row in scored.confidence:
        line["confidence"] = scored.confidence[row.row]
    return line

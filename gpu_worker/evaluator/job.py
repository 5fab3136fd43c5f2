"""One evaluation: choose rows, let both models answer them in one batch, write the answers down."""

import json
import time
from collections.abc import Sequence as Rows
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

from datasets_app.rendering import ChatRenderer
from experiments.hyperparameters import Hyperparameters, stops_in
from experiments.problem_file import Problem, read_problem
from experiments.scoring.against import is_free_text
from experiments.scoring.names import CONSTRAINED, MAJORITY, MODELS, OTHERS, SCORED, TFIDF, TUNED, UNTUNED
from experiments.trials import LEAST_SCORING_S, SCORING_SHARE
from gpu_worker.engine.build import RunnerKind, build_core
from gpu_worker.engine.config import EngineConfig
from gpu_worker.engine.core import EngineCore
from gpu_worker.engine.errors import EngineError
from gpu_worker.engine.grammar import Grammar, GrammarCompiler
from gpu_worker.engine.sampling import SamplingParams
from gpu_worker.engine.sequence import AdapterRef, FinishReason, Sequence
from gpu_worker.evaluator.baselines import Messages, answer_simply
from gpu_worker.evaluator.bound import (
    CACHE_SALT,
    Bound,
    ScoredRows,
    bind,
    calibration_rows,
    rows_to_calibrate_by,
    score_closed_fields,
)
from gpu_worker.evaluator.expected import Nats, expected_nats
from gpu_worker.evaluator.heldout import Answer, choose_rows, read_lines
from gpu_worker.evaluator.pace import Pace
from gpu_worker.evaluator.problems import ProblemScorer, measure_problem
from gpu_worker.trainer.errors import TrainingError
from gpu_worker.trainer.events import Events
from gpu_worker.trainer.heldout import HeldOutRow, answer_limit
from gpu_worker.trainer.rows import read_messages
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
    rows = choose_rows(
        job_dir / "data" / "heldout.jsonl", renderer, count=wanted["rows"], seed=wanted["seed"], problem=problem
    )
    asks_untuned = bool(wanted.get("untuned", True))
    # Of a problem type's rows, more is asked than their answers.
    known = {} if problem or not asks_untuned else _known_answers(job_dir / "evaluation" / "untuned-cache.jsonl", rows)
    limit = answer_limit(rows, int(wanted["max_new_tokens"]))
    config = EngineConfig(max_waiting=3 * len(rows))
    core = build_core(model_dir, renderer, config, kind=runner_for(job_dir / "adapter"))
    tuned = _load_adapter(core, job_dir / "adapter")
    questions: dict[str, list[HeldOutRow]] = {TUNED: rows, UNTUNED: rows if asks_untuned and not known else []}
    params = SamplingParams(
        limit,
        wanted.get("temperature", 0.0),
        wanted.get("top_p", 1.0),
        int(wanted.get("top_k", 0)),
        seed=seed,
        stop=stops_in(wanted.get("stop_texts", "")),
    )
    asked = Questions(core, renderer, params, _grammar(problem, core, model_dir, renderer))
    asked.put(TUNED, questions[TUNED], tuned)
    asked.put(UNTUNED, questions[UNTUNED], None)
    writes_freely = problem is None or problem.problem_type == "preference"
    training_rows = cache(lambda: _training_rows(job_dir / "data" / "train.jsonl", events))
    bound = None
    if writes_freely:
        bound = bind(core, renderer, model_dir, training_rows, spec.get("schema"), tuned, events)
    asking = time.monotonic()
    asked.run(events, stop)
    unasked: list[HeldOutRow] = []
    if bound is not None:
        unasked, written = rows_to_calibrate_by(bound, job_dir, rows, seed)
        known_already = asked.copy_conforming(TUNED, CONSTRAINED, rows, bound.grammar)
        others = [row for row in rows if row.row not in known_already]
        asked.put(CONSTRAINED, [*others, *written], tuned, bound.grammar)
        asked.run(events, stop)
    answers = asked.answers
    limit_s = max(LEAST_SCORING_S, float(wanted.get("scoring_share", SCORING_SHARE)) * (time.monotonic() - asking))
    scored = score_closed_fields(bound, rows, unasked, answers, events, stop, limit_s=limit_s) if bound else None
    for row in rows if known else []:
        answers[UNTUNED, row.row] = known[row.row]
    if problem:
        scorer = ProblemScorer(core, renderer, problem, Hyperparameters.model_validate(spec.get("hyperparameters", {})))
        contents = [row.content for row in rows]
        unasked = calibration_rows(job_dir, renderer, rows, seed) if problem.labels else []
        measure_problem(
            scorer, problem, contents, {TUNED: tuned, UNTUNED: None}, job_dir / "evaluation", events, stop,
            calibration=[row.content for row in unasked],
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
    """Return what an earlier run found the untuned model to answer, or nothing unless it is for just these rows."""
    if not path.exists():
        return {}
    found = [json.loads(line) for line in read_lines(path)]
    if [(item["row"], item["prompt"], item["expected"]) for item in found] != [
        (row.row, row.prompt, row.expected) for row in rows
    ]:
        return {}
    return {item["row"]: Answer(item["untuned"], item["untuned_finish"]) for item in found}


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


class Questions:
    """Rows put to both models at once; the engine works on as many as fit in one batch."""

    def __init__(
        self, core: EngineCore, renderer: ChatRenderer, params: SamplingParams, grammar: Grammar | None = None
    ) -> None:
        """`grammar`: what every answer is held to."""
        self._grammar = grammar
        self.answers: dict[tuple[str, int], Answer] = {}
        self._core = core
        self._renderer = renderer
        self._params = params
        self._open: dict[str, tuple[str, int]] = {}
        self._texts: dict[str, list[str]] = {}
        self._tokens: dict[tuple[str, int], list[int]] = {}
        self._totals: dict[str, int] = {}

    def put(
        self, subject: str, rows: Rows[HeldOutRow], adapter: AdapterRef | None, grammar: Grammar | None = None
    ) -> None:
        """Queue rows for one model, whose answers follow the grammar if there is one.

        A prompt that leaves no room for an answer counts as unanswered.
        """
        self._totals[subject] = self._totals.get(subject, 0) + len(rows)
        held = grammar or self._grammar
        # What is held to a grammar ends where the grammar does.
        params = replace(self._params, stop=()) if held else self._params
        for row in rows:
            key = f"{subject}-{row.row}"
            sequence = Sequence.create(
                key,
                row.prompt_ids,
                params,
                adapter=adapter,
                decode=self._renderer.decode,
                grammar=held.start() if held else None,
                cache_salt=CACHE_SALT,
            )
            try:
                self._core.submit([sequence])
            except EngineError:
                self.answers[subject, row.row] = Answer("", "length")
                continue
            self._open[key], self._texts[key] = (subject, row.row), []
            self._tokens[subject, row.row] = []

    def copy_conforming(self, source: str, subject: str, rows: Rows[HeldOutRow], grammar: Grammar) -> set[int]:
        """Let `subject` have the complete answers of `source` that follow the grammar anyway; return their rows.

        Always the likeliest token, all of them allowed: bound to the grammar, the same tokens would be chosen again.
        Where texts end an answer, its text may lack the last of them.
        """
        if self._params.temperature > 0 or self._params.stop:
            return set()
        found = {
            row.row
            for row in rows
            if self.answers[source, row.row].finish == FinishReason.STOP
            and grammar.is_complete(self._tokens.get((source, row.row), ()))
        }
        self.answers |= {(subject, row): self.answers[source, row] for row in found}
        self._totals[subject] = len(found)
        return found

    def run(self, events: Events, stop: StopFlag) -> None:
        """Step until every question is answered. Raises: StopRequested, TrainingError if an answer breaks off."""
        pace = Pace()
        while self._core.busy:
            stop.check()
            for output in self._core.step():
                if output.error and not output.sequence_id.startswith(CONSTRAINED):
                    raise TrainingError("internal", output.error)
                self._texts[output.sequence_id].append(output.text)
                self._tokens[self._open[output.sequence_id]].extend(output.token_ids)
                if output.finish_reason is not None:
                    text = "".join(self._texts.pop(output.sequence_id))
                    self.answers[self._open.pop(output.sequence_id)] = Answer(text, output.finish_reason.value)
            if pace.is_due(is_last=not self._core.busy):
                self._tell(events)

    def _tell(self, events: Events) -> None:
        for subject, total in self._totals.items():
            done = sum(1 for answered, _row in self.answers if answered == subject)
            if total:
                events.emit("evaluation_progress", subject=subject, done=done, total=total)


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

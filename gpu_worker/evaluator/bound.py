"""Other ways to ask the tuned model: bound to the answers' schema, and by scoring the allowed values only."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from datasets_app.rendering import ChatRenderer
from experiments.scoring.calibration import FieldRanking, fit_temperature, probabilities, rank_field
from experiments.scoring.names import CONSTRAINED, SCORED
from experiments.trials import LEAST_CALIBRATION_ROWS, MOST_CALIBRATION_ROWS, MOST_WRITTEN_ROWS
from gpu_worker.engine.core import EngineCore
from gpu_worker.engine.errors import EngineError
from gpu_worker.engine.grammar import Grammar, GrammarCompiler
from gpu_worker.engine.sequence import AdapterRef
from gpu_worker.evaluator.baselines import Messages
from gpu_worker.evaluator.choices import Choice, Chooser, ChosenAnswer, infer_schema, right_label
from gpu_worker.evaluator.heldout import Answer, choose_rows
from gpu_worker.evaluator.pace import Pace
from gpu_worker.evaluator.together import Together
from gpu_worker.trainer.errors import TrainingError
from gpu_worker.trainer.events import Events
from gpu_worker.trainer.heldout import HeldOutRow
from gpu_worker.trainer.stop import StopFlag

CACHE_SALT = "one team's evaluation"
# Rows whose steps are computed together, and the tokens kept free behind the prompt of each.
MOST_AT_ONCE, _ROOM_BEHIND = 8, 512
# The first row is slow, because nothing is remembered yet.
_ROWS_THAT_TELL = 3


@dataclass(frozen=True)
class Bound:
    """What answers are bound to, and who answers."""

    schema: dict[str, Any]
    grammar: Grammar
    chooser: Chooser
    renderer: ChatRenderer
    together: Together
    room_tokens: int
    """Tokens that rows scored together may have, their prompts and what is scored behind them."""


@dataclass(frozen=True)
class ScoredRows:
    """Answers chosen among the allowed values, by row.

    `confidence` has, per closed field, how sure the model is before and after its temperature. `calibration` has, per
    field in the schema's order, the temperature, the labels that it is for, and the calibration rows as (confidence at
    it, right). `ranking`: how well all probabilities tell the right value, field by field.
    """

    answers: dict[int, str]
    confidence: dict[int, dict[str, tuple[float, float]]]
    calibration: dict[str, dict[str, Any]]
    ranking: tuple[FieldRanking, ...]


def bind(
    core: EngineCore,
    renderer: ChatRenderer,
    model_dir: Path,
    training_rows: Callable[[], Sequence[Messages]],
    schema: dict[str, Any] | None,
    tuned: AdapterRef,
    events: Events,
) -> Bound | None:
    """Return what the answers are bound to: the dataset's schema, else what the training answers follow.

    None if answers are no JSON objects, or if the adapter is bound to labels of its own already.
    """
    if tuned.grammar:
        return None
    schema = schema or infer_schema([row[-1]["content"] for row in training_rows()])
    if not schema or "properties" not in schema:
        return None
    compiler = GrammarCompiler(model_dir, vocabulary=core.vocabulary, eos_ids=renderer.eos_ids)
    try:
        grammar = compiler.compile(schema)
    except EngineError as error:
        events.log(f"Answers cannot be bound to the dataset's schema: {error}", level="warning")
        return None
    alone = core.likelihoods()
    together = Together(alone.forward)
    chooser = Chooser(alone.through(together.forward), renderer, schema, tuned, cache_salt=CACHE_SALT)
    return Bound(schema, grammar, chooser, renderer, together, room_tokens=2 * core.scorable_tokens)


def score_closed_fields(
    bound: Bound,
    rows: Sequence[HeldOutRow],
    unasked: Sequence[HeldOutRow],
    answers: Mapping[tuple[str, int], Answer],
    events: Events,
    stop: StopFlag,
    *,
    limit_s: float = math.inf,
) -> ScoredRows | None:
    """Let the tuned model choose among the allowed values, calibrated on `unasked` validation rows.

    Fields that are not closed are what the model has written within the schema, where it has, else the right ones.
    None if no field is closed, a row is too long, or it would take longer than `limit_s`. Raises: StopRequested.
    """
    if not bound.chooser.closed:
        return None
    least = len(rows) + min(len(unasked), LEAST_CALIBRATION_ROWS)
    told = _Progress(events, stop, len(rows) + len(unasked), limit_s, least=least)
    try:
        others = {row.row: row.expected for row in unasked}
        others |= {row: answer.text for (subject, row), answer in answers.items() if subject == CONSTRAINED}
        chosen = {row.row: answer for row, answer in _choose(bound, rows, others, told)}
        known = list(_choose(bound, unasked, others, told))
    except ValueError as error:
        events.log(f"The allowed values could not be scored: {error}.", level="warning")
        return None
    except _TooSlow as slow:
        events.log(f"There are too many allowed values to score them all: it would take {slow.needed_s:.0f} seconds.")
        return None
    judged = {name: _judged(name, known) for name in bound.chooser.closed}
    temperatures = {name: fit_temperature(_spread(name, known)) for name in judged}
    calibration = {
        name: {
            "temperature": temperatures[name],
            "labels": list(bound.chooser.closed[name]),
            "rows": [(_confidence(choice, temperatures[name]), right) for choice, right in judged[name]],
        }
        for name in judged
        if judged[name]
    }
    confidence = {
        row: {
            name: (_confidence(choice, 1.0), _confidence(choice, temperatures[name]))
            for name, choice in answer.choices.items()
        }
        for row, answer in chosen.items()
    }
    asked = [(row, chosen[row.row]) for row in rows]
    ranking = tuple(
        rank_field(name, temperatures[name], wanted)
        for name in bound.chooser.closed
        if (wanted := _wanted(name, asked))
    )
    return ScoredRows({row: answer.text for row, answer in chosen.items()}, confidence, calibration, ranking)


def calibration_rows(job_dir: Path, renderer: ChatRenderer, rows: Sequence[HeldOutRow], seed: int) -> list[HeldOutRow]:
    """Return validation rows that are not asked, at most as many as those: never a test row."""
    path, count = job_dir / "data" / "validation.jsonl", min(len(rows), MOST_CALIBRATION_ROWS)
    try:
        return choose_rows(path, renderer, count=count, seed=seed, without={row.row for row in rows})
    except TrainingError:
        return []


def rows_to_calibrate_by(
    bound: Bound, job_dir: Path, rows: Sequence[HeldOutRow], seed: int
) -> tuple[list[HeldOutRow], list[HeldOutRow]]:
    """Return validation rows that are not asked, and those of them whose answers have to be written first."""
    unasked = calibration_rows(job_dir, bound.renderer, rows, seed)
    if not bound.chooser.needs_answers:
        return unasked, []
    return unasked[:MOST_WRITTEN_ROWS], unasked[:MOST_WRITTEN_ROWS]


def _choose(
    bound: Bound, rows: Sequence[HeldOutRow], others: Mapping[int, str], told: _Progress
) -> Iterator[tuple[HeldOutRow, ChosenAnswer]]:
    """Yield rows with the answers chosen for them, a few rows together, until the time is up.

    `others`: by row, the answer from which fields are taken that are not closed.
    """
    longest = max((len(row.prompt_ids) for row in rows), default=0)
    at_once = max(1, min(MOST_AT_ONCE, bound.room_tokens // (longest + _ROOM_BEHIND)))
    for start in range(0, len(rows), at_once):
        if told.is_time_up:
            return
        some = rows[start : start + at_once]
        tasks = [partial(bound.chooser.answer, row.prompt_ids, others[row.row]) for row in some]
        for row, answer in zip(some, bound.together.run(tasks), strict=True):
            yield row, told.after(answer)


def _judged(name: str, known: Sequence[tuple[HeldOutRow, ChosenAnswer]]) -> list[tuple[Choice, bool]]:
    """Return what was chosen for a field, and whether that is right, where the right answer has the field."""
    return [
        (answer.choices[name], answer.choices[name].label == wanted)
        for row, answer in known
        if (wanted := right_label(row.expected, name)) is not None and name in answer.choices
    ]


def _spread(name: str, known: Sequence[tuple[HeldOutRow, ChosenAnswer]]) -> list[tuple[list[float], int]]:
    """Return the log probabilities of a field's labels and the place of the right one; other values teach nothing."""
    found = []
    for row, answer in known:
        wanted = right_label(row.expected, name)
        logprobs = answer.choices[name].logprobs if name in answer.choices else {}
        if wanted is not None and wanted in logprobs:
            found.append((list(logprobs.values()), list(logprobs).index(wanted)))
    return found


def _wanted(name: str, known: Sequence[tuple[HeldOutRow, ChosenAnswer]]) -> list[tuple[str, Mapping[str, float]]]:
    """Return the right value of a field and the log probability of each, where the right answer has the field."""
    return [
        (wanted, answer.choices[name].logprobs)
        for row, answer in known
        if (wanted := right_label(row.expected, name)) is not None and name in answer.choices
    ]


def _confidence(choice: Choice, temperature: float) -> float:
    spread = probabilities(list(choice.logprobs.values()), temperature)
    return round(spread[list(choice.logprobs).index(choice.label)], 6)


class _TooSlow(Exception):
    """The rest would take longer than there is time; `needed_s` is what all of it needs."""

    def __init__(self, needed_s: float) -> None:
        super().__init__(needed_s)
        self.needed_s = needed_s


class _Progress:
    """Counts rows, tells of them now and then, and looks ahead whether the time suffices."""

    def __init__(self, events: Events, stop: StopFlag, total: int, limit_s: float, *, least: int | None = None) -> None:
        """`least`: of `total` rows the first that have to be done; the rest only while there is time."""
        self._least = total if least is None else least
        self._limit_s = limit_s
        self._started = time.monotonic()
        self._events = events
        self._stop = stop
        self._total = total
        self._done = 0
        self._pace = Pace()

    @property
    def is_time_up(self) -> bool:
        """Whether all that has to be done is done, and the time is over."""
        return self._done >= self._least and time.monotonic() - self._started > self._limit_s

    def after(self, answer: ChosenAnswer) -> ChosenAnswer:
        """Count one more row and return its answer. Raises: StopRequested, _TooSlow."""
        self._stop.check()
        self._done += 1
        needed_s = (time.monotonic() - self._started) / self._done * self._least
        if _ROWS_THAT_TELL <= self._done < self._least and needed_s > self._limit_s:
            raise _TooSlow(needed_s)
        if self._pace.is_due(is_last=self._done == self._total):
            self._events.emit("evaluation_progress", subject=SCORED, done=self._done, total=self._total)
        return answer

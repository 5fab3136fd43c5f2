"""Rows put to models, and what they answered."""

import random
import time
from collections.abc import Mapping
from collections.abc import Sequence as Rows
from dataclasses import replace

from datasets_app.rendering import ChatRenderer
from experiments.scoring.names import CONSTRAINED
from experiments.trials import asked_next
from gpu_worker.engine.core import EngineCore
from gpu_worker.engine.errors import EngineError
from gpu_worker.engine.grammar import Grammar
from gpu_worker.engine.sampling import SamplingParams
from gpu_worker.engine.sequence import AdapterRef, FinishReason, Sequence
from gpu_worker.evaluator.bound import CACHE_SALT
from gpu_worker.evaluator.heldout import Answer
from gpu_worker.evaluator.pace import Pace
from gpu_worker.trainer.errors import TrainingError
from gpu_worker.trainer.events import Events
from gpu_worker.trainer.heldout import HeldOutRow
from gpu_worker.trainer.stop import StopFlag


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

    def ask_in_time(
        self,
        rows: Rows[HeldOutRow],
        models: Mapping[str, AdapterRef | None],
        known: Mapping[str, Mapping[int, Answer]],
        events: Events,
        stop: StopFlag,
        *,
        limit_s: float,
        seed: int,
    ) -> list[HeldOutRow]:
        """Let all models answer the same rows, and return those for which there was time (see `trials.asked_next`).

        Which come first is drawn by chance, alike for the same seed. `known`: what need not be asked again.
        Raises: StopRequested, TrainingError if an answer breaks off.
        """
        order = random.Random(seed).sample(rows, len(rows))  # noqa: S311 -- no secret
        asked, row_s, started = 0, 0.0, time.monotonic()
        while more := asked_next(len(rows), asked, row_s, limit_s):
            self._ask(order[asked : asked + more], models, known)
            self.run(events, stop)
            asked += more
            row_s = (time.monotonic() - started) / asked
        if asked < len(rows):
            events.log(f"{asked:,} of {len(rows):,} held-out rows are asked; more would take too long for this run.")
        places = {row.place for row in order[:asked]}
        return [row for row in rows if row.place in places]

    def _ask(
        self,
        rows: Rows[HeldOutRow],
        models: Mapping[str, AdapterRef | None],
        known: Mapping[str, Mapping[int, Answer]],
    ) -> None:
        for subject, adapter in models.items():
            told = known.get(subject, {})
            self.put(subject, [row for row in rows if row.row not in told], adapter)
            self.answers |= {(subject, row.row): told[row.row] for row in rows if row.row in told}

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

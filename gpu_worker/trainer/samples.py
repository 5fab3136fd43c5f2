"""A few validation rows, answered by the adapter as it stands: what the loss means in words, while training goes on.

The answers come from the serving engine, which is built for them and given up again: it needs the base model's weights
once more for some seconds, and nothing in between. They are free, and bound to the dataset's schema where it has one.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from torch import Tensor

from datasets_app.fields import Field, infer_fields
from datasets_app.rendering import ChatRenderer, RenderingError
from experiments.hyperparameters import Hyperparameters
from experiments.scoring import RowScore, row_score
from experiments.scoring.subjects import score_subject
from gpu_worker.trainer import checkpoints
from gpu_worker.trainer.adapter import write_adapter
from gpu_worker.trainer.errors import StopRequested
from gpu_worker.trainer.events import Events
from gpu_worker.trainer.heldout import HeldOutRow, answer_limit, heldout_row
from gpu_worker.trainer.learner import Learner
from gpu_worker.trainer.rows import read_rows
from gpu_worker.trainer.spec import JobFolder, TrainSpec
from gpu_worker.trainer.stop import StopFlag

if TYPE_CHECKING:  # whoever samples nothing does without the engine
    from gpu_worker.engine.core import EngineCore
    from gpu_worker.engine.grammar import Grammar, GrammarCompiler

SHOWN_ROWS: Final = 8
SHOWN_CHARACTERS: Final = 600
# Nothing is begun that surely cannot end in time.
LEAST_SECONDS: Final = 0.5


def reason_against(spec: TrainSpec, learner: Learner) -> str:
    """Return why no answers are sampled while training, empty if they are."""
    if not spec.hyperparameters.sample_rows or spec.preflight:
        return "it was not asked for"
    return reason_against_engine(spec, learner)


def reason_against_engine(spec: TrainSpec, learner: Learner) -> str:
    """Return why the adapter cannot answer in words beside the training, empty if it can."""
    chosen = spec.hyperparameters
    if chosen.problem_type != "chat":
        return "only chats are answered in words"
    if chosen.training_kind != "lora" or chosen.dora or chosen.lora_init not in ("default", "gaussian"):
        return "the weights would have to be converted each time"
    if chosen.quantization != "none" or learner.device != "cpu":
        return "a second copy of the base model may not fit beside the training"
    return ""


def sampled_adapter(folder: JobFolder) -> Path:
    """Return where the adapter stands while it answers."""
    return folder.root / "tmp" / "sampled-adapter"


def write_sampled(target: Path, learner: Learner) -> Path:
    """Write the adapter as it stands, and return its folder."""
    trained: dict[str, Tensor] = learner.parameters.export(learner.parameters.values)
    write_adapter(target, learner.outcome.tensors(trained), learner.outcome.config())
    return target


@dataclass(frozen=True)
class _Answer:
    text: str
    token_ids: tuple[int, ...]
    is_whole: bool  # it ended by itself, not at the limit


class Sampler:
    """Answers the same validation rows again and again, with whatever the adapter has learned so far."""

    def __init__(
        self,
        folder: JobFolder,
        spec: TrainSpec,
        learner: Learner,
        renderer: ChatRenderer,
        events: Events,
        stop: StopFlag,
    ) -> None:
        """Raises: TrainingError (bad_data) if the rows cannot be read."""
        self._folder = sampled_adapter(folder)
        self._model_dir = spec.base_model.path
        self._learner = learner
        self._events = events
        self._stop = stop
        self._renderer = renderer
        self._schema = spec.schema if spec.schema and "properties" in spec.schema else None
        self._compiler: GrammarCompiler | None = None
        chosen = spec.hyperparameters
        self._questions = _questions(folder.validation_rows, renderer, chosen)
        self._limit = answer_limit(self._questions, chosen.max_new_tokens)
        self._stops = chosen.stops
        self._judged = chosen.early_stopping_metric
        self._closed = [field for field in infer_fields(one.expected for one in self._questions) if field.closed]

    @property
    def has_classes(self) -> bool:
        """Whether the expected answers have closed fields, whose values are classes."""
        return bool(self._closed)

    def sample(self, place: dict[str, float], limit_s: float) -> float | None:
        """Answer within `limit_s` seconds, report what was answered by then, and return how good that was.

        That is the macro-F1 of the closed fields where it was chosen to say what is better, else the share of exact
        answers. None if nothing was answered in time. Raises: StopRequested.
        """
        if not self._questions or limit_s < LEAST_SECONDS:
            return None
        deadline = time.perf_counter() + limit_s
        before = checkpoints.random_state()
        try:
            free, bound = self._answers(deadline)
        except StopRequested:
            raise
        except Exception as error:  # noqa: BLE001 — a look at the answers must never end hours of training
            self._events.log(f"The validation rows could not be answered: {type(error).__name__}.", level="warning")
            return None
        finally:
            checkpoints.set_random_state(before)
            shutil.rmtree(self._folder, ignore_errors=True)
        return self._report(place, free, bound) if free else None

    def _answers(self, deadline: float) -> tuple[dict[int, _Answer], dict[int, _Answer]]:
        """Return the answers that are complete before the deadline, free and bound to the schema, by place."""
        from gpu_worker.engine.build import build_core
        from gpu_worker.engine.config import EngineConfig
        from gpu_worker.engine.memory import return_freed_memory

        write_sampled(self._folder, self._learner)
        core = build_core(self._model_dir, self._renderer, EngineConfig(max_waiting=len(self._questions)))
        core.add_adapter("sampled", core.read_adapter(self._folder))
        free = self._ask(core, range(len(self._questions)), None, deadline)
        grammar = self._grammar(core)
        bound = self._bound(core, free, grammar, deadline) if grammar else {}
        del core
        return_freed_memory()
        return free, bound

    def _grammar(self, core: EngineCore) -> Grammar | None:
        if self._schema is None:
            return None
        from gpu_worker.engine.errors import EngineError
        from gpu_worker.engine.grammar import GrammarCompiler

        if self._compiler is None:  # reading the vocabulary takes a moment, and it stays the same
            self._compiler = GrammarCompiler(
                self._model_dir, vocabulary=core.vocabulary, eos_ids=self._renderer.eos_ids
            )
        try:
            return self._compiler.compile(self._schema)
        except EngineError as error:
            self._schema = None
            self._events.log(f"Sampled answers cannot be bound to the dataset's schema: {error}", level="warning")
            return None

    def _bound(
        self, core: EngineCore, free: dict[int, _Answer], grammar: Grammar, deadline: float
    ) -> dict[int, _Answer]:
        """Return the answers within the schema. Greedily, free ones that follow it anyway would come again.

        Not where texts end an answer: it may lack what its tokens say.
        """
        same = {
            place: answer
            for place, answer in free.items()
            if not self._stops and answer.is_whole and grammar.is_complete(answer.token_ids)
        }
        return same | self._ask(core, [place for place in free if place not in same], grammar, deadline)

    def _ask(
        self, core: EngineCore, places: Iterable[int], grammar: Grammar | None, deadline: float
    ) -> dict[int, _Answer]:
        from gpu_worker.engine.sampling import SamplingParams
        from gpu_worker.engine.sequence import FinishReason
        from gpu_worker.engine.sequence import Sequence as Answering

        # What is bound to a schema ends where the schema does.
        params = SamplingParams(self._limit, stop=() if grammar else self._stops)
        adapter = core.find_adapter("sampled")
        texts: dict[str, str] = {}
        tokens: dict[str, list[int]] = {}
        for place in places:
            key = f"{place}-bound" if grammar else str(place)
            texts[key], tokens[key] = "", []
            sequence = Answering.create(
                key,
                self._questions[place].prompt_ids,
                params,
                adapter=adapter,
                decode=self._renderer.decode,
                grammar=grammar.start() if grammar else None,
            )
            core.submit([sequence])
        ended: dict[int, _Answer] = {}
        while core.busy and time.perf_counter() < deadline:
            self._stop.check()
            for output in core.step():
                key = output.sequence_id
                texts[key] += output.text
                tokens[key].extend(output.token_ids)
                if output.finish_reason is not None:
                    is_whole = output.finish_reason == FinishReason.STOP
                    ended[int(key.partition("-")[0])] = _Answer(texts[key], tuple(tokens[key]), is_whole)
        return dict(sorted(ended.items()))

    def _report(self, place: dict[str, float], free: dict[int, _Answer], bound: dict[int, _Answer]) -> float:
        scores = self._scores(free)
        exact = _exact_share(scores)
        figures: dict[str, float] = {"validation_exact_match": exact, "validation_sampled_rows": len(scores)}
        valid = [score.valid_json for score in scores.values() if score.valid_json is not None]
        if valid:
            figures["validation_json_valid"] = sum(valid) / len(valid)
        bound_scores = self._scores(bound)
        if bound.keys() == free.keys():  # of some of the rows only, it could not be compared
            figures["validation_bound_exact_match"] = _exact_share(bound_scores)
        if self._closed:
            expected = [self._questions[number].expected for number in free]
            figures["validation_macro_f1"] = macro_f1(expected, [one.text for one in free.values()], self._closed)
        self._events.emit("metric", **place, **figures)
        shown = []
        for number in list(free)[:SHOWN_ROWS]:
            shown.append(_shown(self._questions[number], free[number].text, scores[number]))
            if number in bound:
                within = {"bound": bound[number].text[:SHOWN_CHARACTERS], "bound_exact": bound_scores[number].exact}
                shown[-1] |= within
        self._events.emit("sample", step=place["step"], rows=shown)
        return figures["validation_macro_f1"] if self._judged == "macro_f1" and self._closed else exact

    def _scores(self, answers: dict[int, _Answer]) -> dict[int, RowScore]:
        return {place: row_score(self._questions[place].expected, answer.text) for place, answer in answers.items()}


def macro_f1(expected: Sequence[str], answers: Sequence[str], closed: Sequence[Field]) -> float:
    """Return the mean, over closed fields, of the mean F1 of the values that are expected of each."""
    scores = score_subject(expected, answers, closed, seed=0).fields
    known = [field.f1 for field in scores if field.f1 is not None]
    return sum(known) / len(known) if known else 0.0


def _exact_share(scores: dict[int, RowScore]) -> float:
    return sum(score.exact for score in scores.values()) / len(scores)


def _shown(question: HeldOutRow, answer: str, score: RowScore) -> dict[str, Any]:
    texts = {"prompt": question.prompt, "expected": question.expected, "answer": answer}
    short = {name: text[:SHOWN_CHARACTERS] for name, text in texts.items()}
    return {"row": question.row, **short, "exact": score.exact, "score": score.score, "fields": score.fields}


def _questions(path: Path, renderer: ChatRenderer, chosen: Hyperparameters) -> list[HeldOutRow]:
    """Return as many rows of a file as were chosen, the first ones that fit."""
    found: list[HeldOutRow] = []
    for number, content in read_rows(path) if path.exists() else ():
        if len(found) == chosen.sample_rows:
            break
        try:
            question = heldout_row(content | {"row": number}, renderer)
        except (RenderingError, KeyError, TypeError, AttributeError):
            continue
        if len(question.prompt_ids) + question.answer_tokens <= chosen.max_length:
            found.append(question)
    return found

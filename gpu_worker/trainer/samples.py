"""A few validation rows, answered by the adapter as it stands: what the loss means in words, while training goes on.

On CPUs a plain LoRA adapter is answered with by the serving engine, which is built for it and given up again: fast,
but it needs the base model's weights once more for some seconds. Elsewhere the model that learns answers itself. The
answers are free, and bound to the dataset's schema where it has one.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from torch import Tensor

from datasets_app.fields import Field, infer_fields
from datasets_app.rendering import ChatRenderer, RenderingError
from experiments.hyperparameters import BASE_MODEL_STARTS, Hyperparameters
from experiments.scoring import RowScore, row_score
from experiments.scoring.subjects import score_subject
from gpu_worker.trainer import checkpoints
from gpu_worker.trainer.adapter import write_adapter
from gpu_worker.trainer.answers import Answer, Answering, Terms
from gpu_worker.trainer.errors import StopRequested
from gpu_worker.trainer.events import Events
from gpu_worker.trainer.heldout import HeldOutRow, answer_limit, heldout_row
from gpu_worker.trainer.learner import Learner, LendsModel
from gpu_worker.trainer.limits import peak_memory_bytes
from gpu_worker.trainer.rows import read_rows
from gpu_worker.trainer.spec import JobFolder, TrainSpec
from gpu_worker.trainer.stop import StopFlag

if TYPE_CHECKING:  # whoever samples nothing does without the engine
    from gpu_worker.engine.grammar import Grammar, GrammarCompiler

SHOWN_ROWS: Final = 8
SHOWN_CHARACTERS: Final = 600
# Nothing is begun that surely cannot end in time.
LEAST_SECONDS: Final = 0.5
# As many rows as are answered together, and how long that may take where a run is only predicted.
REHEARSED_ROWS: Final = 8
REHEARSAL_S: Final = 20.0
# Processes that wait for the one that answers give up after ten minutes (NCCL).
MOST_SECONDS_TOGETHER: Final = 300.0


def reason_against(spec: TrainSpec, learner: Learner) -> str:
    """Return why no answers are sampled while training, empty if they are."""
    chosen = spec.hyperparameters
    if not chosen.sample_rows:
        return "it was not asked for"
    if chosen.problem_type == "pretraining":
        return "plain text has no answers"
    if not engine_fits(spec, learner) and learner.is_divided:
        return "the processes that share the base model would all have to answer"
    return ""


def reason_against_engine(spec: TrainSpec, learner: Learner) -> str:
    """Return why the quality report's answers cannot be tried out beside the training, empty if they can."""
    if spec.hyperparameters.problem_type != "chat":
        return "only chats are answered in words"
    return "" if engine_fits(spec, learner) else "a second copy of the base model may not fit beside the training"


def engine_fits(spec: TrainSpec, learner: Learner) -> bool:
    """Tell whether the serving engine can take up the adapter as it stands, beside the training."""
    chosen = spec.hyperparameters
    is_plain = chosen.training_kind == "lora" and not chosen.dora and chosen.lora_init not in BASE_MODEL_STARTS
    return is_plain and chosen.quantization == "none" and learner.device == "cpu"


def sampled_adapter(folder: JobFolder) -> Path:
    """Return where the adapter stands while it answers."""
    return folder.root / "tmp" / "sampled-adapter"


def write_sampled(target: Path, learner: Learner) -> Path:
    """Write the adapter as it stands, and return its folder."""
    trained: dict[str, Tensor] = learner.parameters.export(learner.parameters.values)
    write_adapter(target, learner.outcome.tensors(trained), learner.outcome.config())
    return target


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
        *,
        is_alone: bool = True,
    ) -> None:
        """`is_alone`: no other process waits for the answers.

        Raises: TrainingError (bad_data) if the rows cannot be read.
        """
        self._folder = sampled_adapter(folder)
        self._model_dir = spec.base_model.path
        self._by_engine = engine_fits(spec, learner)
        self._learner = learner
        self._events = events
        self._stop = stop
        self._is_alone = is_alone
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
        answers. None if nothing was answered in time. Raises: StopRequested, unless others wait.
        """
        if not self._questions or limit_s < LEAST_SECONDS:
            return None
        deadline = time.perf_counter() + (limit_s if self._is_alone else min(limit_s, MOST_SECONDS_TOGETHER))
        before = checkpoints.random_state()
        try:
            with self._answering() as model:
                free, bound = self._answers(model, Terms(self._limit, self._stops, lambda: self._is_over(deadline)))
        except StopRequested:
            raise
        except Exception as error:  # noqa: BLE001 — a look at the answers must never end hours of training
            self._events.log(f"The validation rows could not be answered: {type(error).__name__}.", level="warning")
            return None
        finally:
            checkpoints.set_random_state(before)
        return self._report(place, free, bound) if free else None

    def rehearse(self) -> dict[str, float]:
        """Return what answering takes, for a prediction: to get ready, and a row as long as the right answers are."""
        few = dict(enumerate(question.prompt_ids for question in self._questions[:REHEARSED_ROWS]))
        if not few:
            return {}
        deadline = time.perf_counter() + REHEARSAL_S
        longest = max(question.answer_tokens for question in self._questions)
        started = time.perf_counter()
        with self._answering() as model:
            ready = time.perf_counter()
            model.ask(few, Terms(min(longest, self._limit), (), lambda: self._is_over(deadline)), None)
        row_s = (time.perf_counter() - ready) / len(few)
        found = {"answering_build_s": ready - started, "answering_row_s": row_s}
        peak = peak_memory_bytes(self._learner.device)
        return found | {"sampled_rows": len(self._questions), "peak_memory_bytes": peak}

    @contextlib.contextmanager
    def _answering(self) -> Iterator[Answering]:
        """Lend whatever answers with the adapter as it stands."""
        if self._by_engine:
            from gpu_worker.trainer.engine_answers import engine_answers

            try:
                write_sampled(self._folder, self._learner)
                with engine_answers(self._model_dir, self._renderer, self._folder, rows=len(self._questions)) as engine:
                    yield engine
            finally:
                shutil.rmtree(self._folder, ignore_errors=True)
            return
        from gpu_worker.trainer.live_answers import LiveAnswers

        assert isinstance(self._learner, LendsModel)
        with self._learner.lend_model() as model:
            yield LiveAnswers(model, self._renderer, device=self._learner.device)

    def _is_over(self, deadline: float) -> bool:
        """Tell whether answering has to end. Raises: StopRequested, unless others wait."""
        if self._is_alone:
            self._stop.check()
        return self._stop.is_requested or time.perf_counter() >= deadline

    def _answers(self, model: Answering, terms: Terms) -> tuple[dict[int, Answer], dict[int, Answer]]:
        """Return the answers that ended in time, free and bound to the schema, by place."""
        prompts = {place: question.prompt_ids for place, question in enumerate(self._questions)}
        free = model.ask(prompts, terms, None)
        grammar = self._grammar(model.vocabulary)
        if grammar is None:
            return free, {}
        # Greedily, free answers that follow the schema anyway would come again. Not where texts end an answer: it may
        # lack what its tokens say.
        same = {
            place: answer
            for place, answer in free.items()
            if not self._stops and answer.is_whole and grammar.is_complete(answer.token_ids)
        }
        return free, same | model.ask({place: prompts[place] for place in free if place not in same}, terms, grammar)

    def _grammar(self, vocabulary: int) -> Grammar | None:
        if self._schema is None:
            return None
        from gpu_worker.engine.errors import EngineError
        from gpu_worker.engine.grammar import GrammarCompiler

        if self._compiler is None:  # reading the vocabulary takes a moment, and it stays the same
            self._compiler = GrammarCompiler(self._model_dir, vocabulary=vocabulary, eos_ids=self._renderer.eos_ids)
        try:
            return self._compiler.compile(self._schema)
        except EngineError as error:
            self._schema = None
            self._events.log(f"Sampled answers cannot be bound to the dataset's schema: {error}", level="warning")
            return None

    def _report(self, place: dict[str, float], free: dict[int, Answer], bound: dict[int, Answer]) -> float:
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

    def _scores(self, answers: dict[int, Answer]) -> dict[int, RowScore]:
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

"""One run from beginning to end, over a job folder."""

import contextlib
import json
import os
import platform
import shutil
import time
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from datasets_app.learned_rows import EncodedRow
from datasets_app.rendering import ChatRenderer, RenderingError
from gpu_worker.trainer import checkpoints, problems, token_cache
from gpu_worker.trainer.adapter import write_adapter
from gpu_worker.trainer.checkpoint_writer import CheckpointWriter
from gpu_worker.trainer.errors import EXIT_FINISHED, EXIT_STOPPED, StopRequested, TrainingError
from gpu_worker.trainer.events import Events
from gpu_worker.trainer.first_batch import MOST_ROWS, describe_rows
from gpu_worker.trainer.learner import Learner, make_learner, unusable_base_model
from gpu_worker.trainer.limits import peak_memory_bytes
from gpu_worker.trainer.loop import Rows, TrainingLoop
from gpu_worker.trainer.origin import Origin
from gpu_worker.trainer.plan import TrainingPlan
from gpu_worker.trainer.preflight import PreflightPlan, StepTimes, seconds_per_token
from gpu_worker.trainer.ranks import ALONE, Ranks
from gpu_worker.trainer.resuming import go_on
from gpu_worker.trainer.room import free_bytes
from gpu_worker.trainer.rows import EncodedRows
from gpu_worker.trainer.samples import (
    Sampler,
    reason_against,
    reason_against_engine,
    sampled_adapter,
    write_sampled,
)
from gpu_worker.trainer.spec import JobFolder, TrainSpec, read_spec
from gpu_worker.trainer.start import take_up
from gpu_worker.trainer.stop import StopFlag
from gpu_worker.trainer.storage import publish_text, require_space

# Of the free memory, what the copy of a state may occupy while training goes on.
ROOM_FOR_COPY = 0.25
_NO_GPU = "-1"  # in CUDA_VISIBLE_DEVICES, which the supervisor sets where there are GPUs


@dataclass
class Job:
    """What belongs to one run of the trainer. `started`: when its process did, by the monotonic clock."""

    folder: JobFolder
    events: Events
    stop: StopFlag
    ranks: Ranks = ALONE
    started: float = field(default_factory=time.monotonic)
    imports_s: float = 0.0

    def run(self) -> int:
        """Train as ordered and return the exit code. Raises: TrainingError."""
        self.imports_s = time.monotonic() - self.started
        try:
            spec = read_spec(self.folder)
            if spec.preflight:
                self.events = StepTimes(self.events)
            run = self._prepare(spec)
            if spec.keep_only:
                if run.resume() is None:
                    raise StopRequested
                return run.save_stopped()
            self._begin(run, spec)
        except StopRequested:  # before anything was learned there is nothing to save
            self.events.emit("stopped", step=0, checkpoint=None)
            return EXIT_STOPPED
        self.events.phase("training")
        try:
            run.loop.run()
        except StopRequested:
            return run.save_stopped()
        except Exception:
            run.writer.let_end()
            raise
        return run.report_preflight() if spec.preflight else run.save_finished()

    def _prepare(self, spec: TrainSpec) -> "_Run":
        self.events.phase("tokenizing")
        renderer = _renderer(spec)
        with self.ranks.first_one_first():
            train, validation = self._encode(spec, renderer)
        self.stop.check()
        self.events.phase("loading")
        longest = max(len(row.token_ids) for row in (*train.rows, *validation.rows))
        learner = make_learner(spec, longest_row=longest, rows=train.rows)
        if spec.start_adapter is not None:
            take_up(spec.start_adapter, learner.parameters, spec.hyperparameters)
        self.ranks.equalise(learner.parameters.values)
        require_space(self.folder.root, checkpoints.bytes_needed(learner.parameters.count))
        if not spec.keep_only:
            self._make_room(learner, max((*train.rows, *validation.rows), key=lambda row: row.tokens))
        self.stop.check()
        checkpoints.seed_random(spec.hyperparameters.seed)
        return _Run(self, spec, learner, renderer, train, validation)

    def _begin(self, run: "_Run", spec: TrainSpec) -> None:
        """Take up a checkpoint if there is one, and tell what is about to happen."""
        resumed_from = run.resume() if spec.resume else None
        run.announce(resumed_from)
        if resumed_from is None:
            run.show_first_batch()

    def _make_room(self, learner: Learner, longest: EncodedRow) -> None:
        """Let the learner choose how many tokens it computes at once."""
        # Processes share a machine's memory, so they measure one after the other, unless they compute together.
        turns = contextlib.nullcontext() if learner.is_divided else self.ranks.first_one_first()
        with turns:
            if said := learner.make_room(longest):
                self.events.log(said)

    def _encode(self, spec: TrainSpec, renderer: ChatRenderer) -> tuple[EncodedRows, EncodedRows]:
        def encode(path: Path, at_most: int | None = None) -> EncodedRows:
            if not path.exists():  # then there is nothing to name it by; the reader says what is missing
                return problems.encode(path, renderer, spec.hyperparameters)
            name = token_cache.key(path, spec, at_most)
            return token_cache.cached(
                self.folder.tokens,
                name,
                lambda: problems.encode(path, renderer, spec.hyperparameters, at_most=at_most),
            )

        train = encode(self.folder.train_rows)
        if not train.rows:
            raise TrainingError("bad_data", "There are no rows to learn from. Import rows, or allow longer ones.")
        validation = EncodedRows((), 0, 0)
        if self.folder.validation_rows.exists():
            validation = encode(self.folder.validation_rows, spec.hyperparameters.validation_rows)
        return train, validation


def _renderer(spec: TrainSpec) -> ChatRenderer:
    try:
        return ChatRenderer.load(spec.base_model.path)
    except RenderingError as error:
        raise unusable_base_model(str(error).rstrip(".")) from error


class _Run:
    """A run that is ready to step: the loop, and what is written for it."""

    def __init__(
        self,
        job: Job,
        spec: TrainSpec,
        learner: Learner,
        renderer: ChatRenderer,
        train: EncodedRows,
        validation: EncodedRows,
    ) -> None:
        self._job = job
        self._spec = spec
        self._learner = learner
        self._renderer = renderer
        self._train, self._validation = train, validation
        self._origin = Origin(spec, job.folder)
        self._problem = problems.describe(job.folder.train_rows, spec.hyperparameters)
        self._saved_step: int | None = None
        self.writer = CheckpointWriter(self._tell_checkpoint)
        self.loop = TrainingLoop(
            learner=learner,
            rows=Rows(train.rows, validation.rows),
            hyperparameters=spec.hyperparameters,
            events=job.events,
            stop=job.stop,
            save=self.save_checkpoint,
            look=self.writer.look,
            make_plan=PreflightPlan if spec.preflight else TrainingPlan,
            ranks=job.ranks,
            sampler=self._sampler(),
        )

    def _sampler(self) -> Sampler | None:
        if self._spec.preflight or reason_against(self._spec, self._learner):
            return None
        return self._make_sampler()

    def _make_sampler(self) -> Sampler:
        job = self._job
        is_alone = job.ranks.count == 1
        return Sampler(job.folder, self._spec, self._learner, self._renderer, job.events, job.stop, is_alone=is_alone)

    def resume(self) -> int | None:
        """Take up the newest checkpoint that can be trusted; return its step, or None to start from the beginning."""
        job = self._job
        self._saved_step = go_on(job.folder.checkpoints, self.loop, job.events, job.ranks, belongs_to=self._origin)
        return self._saved_step

    def announce(self, resumed_from: int | None) -> None:
        """Tell what is about to happen."""
        if self._train.skipped:
            self._job.events.log(
                f"{self._train.skipped} rows are left out because their answers do not fit.", "warning"
            )
        asked, measured = len(self._validation.rows), len(self.loop.plan.validation_rows)
        if measured < asked:
            self._job.events.log(
                f"Validation checks measure {measured} of {asked} rows, {len(self.loop.plan.validation_steps())} times "
                "in all, so that they take little of the run's time."
            )
        if self._learner.device == "cpu" and os.environ.get("CUDA_VISIBLE_DEVICES", _NO_GPU) not in ("", _NO_GPU):
            self._job.events.log(
                "This node has a GPU that cannot be used, so the run is computed on the processor. The node's log may "
                "say why.",
                "warning",
            )
        self._job.events.emit(
            "started",
            total_steps=self.loop.plan.total_steps,
            rows=len(self._train.rows),
            tokens_per_epoch=self._train.tokens,
            label_tokens_per_epoch=self._train.label_tokens,
            trainable_parameters=self._learner.parameters.count,
            device=self._learner.device,
            path=self._learner.path,
            why=self._learner.why,
            **self._learner.arithmetic,
            processes=self._job.ranks.count,
            resumed_from_step=resumed_from,
            truncated_rows=self._train.truncated,
        )

    def show_first_batch(self) -> None:
        """Tell token by token what the first step learns from; the page shows it, no log does."""
        rows = [self._train.rows[row] for row in self.loop.plan.batch(0)[:MOST_ROWS]]
        self._job.events.emit("first_batch", rows=describe_rows(rows, self._renderer))

    def save_checkpoint(self) -> None:
        """Copy the present state, unless it is saved already, and have the copy written while training goes on."""
        progress = self.loop.progress
        if progress.step == self._saved_step or not self._job.ranks.is_first:
            return
        self.writer.finish()  # so that there is never more than one copy in memory
        state = checkpoints.capture(progress, self._learner.parameters, self.loop.optimizer, self.loop.best)
        kept = None
        if self._spec.hyperparameters.keep_weights == "every":
            kept = self._learner.outcome.tensors(state.adapter), self._learner.outcome.config()
        self._saved_step = progress.step
        self.writer.begin(partial(self._write_checkpoint, state, kept))
        if checkpoints.bytes_of(state) > ROOM_FOR_COPY * free_bytes("cpu"):
            self.writer.finish()  # the next step needs the memory

    def _write_checkpoint(self, state: checkpoints.State, kept: tuple[dict[str, Tensor], Any] | None) -> Path:
        """Write a copied state, in the writer's thread; nothing that training changes is touched."""
        if kept is not None:  # first: a run that goes on from a checkpoint does not come to that step again
            write_adapter(self._job.folder.kept / f"step-{state.progress.step}", *kept, self._problem)
        return checkpoints.save(self._job.folder.checkpoints, state, belongs_to=self._origin)

    def _tell_checkpoint(self, path: Path) -> None:
        self._job.events.emit("checkpoint", step=checkpoints.step_of(path), path=self._relative(path))

    def report_preflight(self) -> int:
        """Tell what the steps took and what the whole run has to do; nothing that was learned is kept."""
        self.writer.finish()
        plan, times = self.loop.plan, self._job.events
        assert isinstance(plan, PreflightPlan)
        assert isinstance(times, StepTimes)
        steps = times.steps(plan)
        learning_s = sum(seconds for seconds, _tokens in steps)
        start_up_s = max(0.0, time.monotonic() - self._job.started - self.loop.progress.seconds)
        peak = peak_memory_bytes(self._learner.device)
        answers = self._rehearsed_answers()
        if answers.get("sampled_rows"):  # a validation check needs the engine beside the training
            peak = max(peak, answers["peak_memory_bytes"])
        self._job.events.emit(
            "preflight",
            **answers
            | {
                "seconds_per_token": seconds_per_token(steps),
                "tokens_per_step": plan.tokens_per_step,
                "total_steps": plan.whole_steps,
                "validation_s": max(0.0, self.loop.progress.seconds - learning_s),
                "validation_checks": plan.whole_checks if self.loop.progress.validation_loss is not None else 0,
                "start_up_s": start_up_s,
                "imports_s": self._job.imports_s,
                "peak_memory_bytes": peak,
                "longest_row": max(len(row.token_ids) for row in self._train.rows),
                "tokens_per_row": self._train.tokens / len(self._train.rows),
                "checkpoints": plan.whole_checkpoints,
                "checkpoint_s": self._time_of_a_checkpoint(),
            },
        )
        self._job.events.emit("finished", step=self.loop.progress.step)
        return EXIT_FINISHED

    def _time_of_a_checkpoint(self) -> float:
        """Return how long saving takes, in seconds; what was saved is thrown away. Only the first process saves."""
        if not self._job.ranks.is_first:
            return 0.0
        aside = self._job.folder.root / "tmp" / "checkpoints"
        aside.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        state = checkpoints.capture(self.loop.progress, self._learner.parameters, self.loop.optimizer, self.loop.best)
        checkpoints.save(aside, state, belongs_to=self._origin)
        seconds = time.perf_counter() - started
        shutil.rmtree(aside, ignore_errors=True)
        return seconds

    def _rehearsed_answers(self) -> dict[str, Any]:
        """Return what answering takes, at validation checks and if possible in the quality report; empty if unknown."""
        job, folder = self._job, sampled_adapter(self._job.folder)
        if job.ranks.count > 1 or reason_against_engine(self._spec, self._learner):
            return self._rehearsed_samples()
        # imported here: training does without the engine and the simple baselines
        from gpu_worker.evaluator.rehearsal import rehearse

        root, model, chosen = job.folder.root, self._spec.base_model.path, self._spec.hyperparameters
        write = partial(write_sampled, folder, self._learner)
        try:
            found = rehearse(root, model, write, chosen, self._renderer, job.events, job.stop)
        except StopRequested:
            raise
        except Exception as error:  # noqa: BLE001 -- steps are measured all the same
            job.events.log(f"Answering could not be measured: {type(error).__name__}.", level="warning")
            return {}
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return asdict(found) if found else {}

    def _rehearsed_samples(self) -> dict[str, Any]:
        """Return what answering takes at the validation checks, where that is all that can be tried out."""
        if self._job.ranks.count > 1 or reason_against(self._spec, self._learner):
            return {}
        try:
            return self._make_sampler().rehearse()
        except StopRequested:
            raise
        except Exception as error:  # noqa: BLE001 -- steps are measured all the same
            self._job.events.log(f"Answering could not be measured: {type(error).__name__}.", level="warning")
            return {}

    def save_stopped(self) -> int:
        """Keep everything learned so far, to be tried out now and continued later."""
        step = self.loop.progress.step
        self.save_checkpoint()
        self.writer.finish()
        self._write_adapter()
        self._write_report("stopped")
        checkpoint = self._job.folder.checkpoints / f"step-{step}"
        self._job.events.emit("stopped", step=step, checkpoint=self._relative(checkpoint))
        return EXIT_STOPPED

    def save_finished(self) -> int:
        """Save the last state and the result, and say so."""
        self._job.events.phase("saving")
        self.save_checkpoint()
        self.writer.finish()
        self._write_adapter()
        figures = self._write_report("finished")
        names = (
            "step",
            "train_loss",
            "validation_loss",
            "trained_tokens",
            "seconds",
            "validation_seconds",
            "peak_memory_bytes",
        )
        self._job.events.emit("finished", adapter=self._job.folder.adapter.name, **{n: figures[n] for n in names})
        return EXIT_FINISHED

    def _write_adapter(self) -> None:
        """Write the best adapter if that is kept, else the present one."""
        if not self._job.ranks.is_first:
            return
        trained = self.loop.best or self._learner.parameters.export(self._learner.parameters.values)
        self._write_outcome(self._job.folder.adapter, trained)
        if remark := self._learner.outcome.remark():
            self._job.events.log(remark)

    def _write_outcome(self, folder: Path, trained: dict[str, Tensor]) -> None:
        write_adapter(folder, self._learner.outcome.tensors(trained), self._learner.outcome.config(), self._problem)

    def _write_report(self, outcome: str) -> dict[str, object]:
        """Write `report.json` and return it. Losses are per label token, in nats; seconds count all attempts."""
        progress = self.loop.progress
        kept_best = bool(self.loop.best)
        figures: dict[str, object] = {
            "outcome": outcome,
            "run": self._spec.run,
            "base_model": {"slug": self._spec.base_model.slug, "revision": self._spec.base_model.revision},
            "hyperparameters": self._spec.hyperparameters.model_dump(mode="json"),
            "step": progress.step,
            "total_steps": self.loop.plan.total_steps,
            "adapter_step": progress.best_step if kept_best else progress.step,
            "train_loss": _mean(sum(loss for loss, _ in progress.recent), sum(n for _, n in progress.recent)),
            "mean_train_loss": _mean(progress.loss_sum, progress.trained_weight),
            "validation_loss": progress.best_validation_loss if kept_best else progress.validation_loss,
            "trained_tokens": progress.trained_tokens,
            "trained_label_tokens": progress.trained_label_tokens,
            "seconds": round(progress.seconds, 2),
            "validation_seconds": round(progress.validation_seconds, 2),
            "start_up_and_saving_seconds": round(time.monotonic() - self._job.started, 2),
            "peak_memory_bytes": peak_memory_bytes(self._learner.device),
            "rows": len(self._train.rows),
            "truncated_rows": self._train.truncated,
            "skipped_rows": self._train.skipped,
            "device": self._learner.device,
            "path": self._learner.path,
            "why": self._learner.why,
            "versions": {"python": platform.python_version(), "torch": version("torch"), "peft": version("peft")},
        }
        if self._job.ranks.is_first:
            publish_text(self._job.folder.report, json.dumps(figures, indent=2) + "\n")
        return figures

    def _relative(self, path: Path) -> str:
        return str(path.relative_to(self._job.folder.root))


def _mean(total: float, count: int) -> float | None:
    return total / count if count else None

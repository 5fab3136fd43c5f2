"""The training loop: steps, validation, checkpoints, and every reason to stop."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from datasets_app.learned_rows import EncodedRow
from experiments.hyperparameters import Hyperparameters
from experiments.trials import VALIDATION_SHARE
from gpu_worker.trainer import checkpoints
from gpu_worker.trainer.checkpoints import Progress, State
from gpu_worker.trainer.errors import StopRequested, TrainingError
from gpu_worker.trainer.events import Events
from gpu_worker.trainer.learner import Learner, is_out_of_memory
from gpu_worker.trainer.limits import give_freed_memory_back, memory_bytes
from gpu_worker.trainer.machine_load import MachineLoad
from gpu_worker.trainer.optimizers import make_optimizer
from gpu_worker.trainer.plan import TrainingPlan, micro_batches
from gpu_worker.trainer.ranks import ALONE, Ranks
from gpu_worker.trainer.samples import Sampler
from gpu_worker.trainer.stop import StopFlag

RECENT_STEPS = 20  # over which the training loss and the speed are averaged
MOST_METRIC_EVENTS = 2000
JUDGED = {"exact_match": "share of exact answers", "macro_f1": "macro-F1 of the answers"}
GIVE_BACK_EVERY = 64  # steps; given back more often, most of it would be fetched again at once


@dataclass(frozen=True)
class Rows:
    """What is learned from and what is only measured on."""

    train: tuple[EncodedRow, ...]
    validation: tuple[EncodedRow, ...]


class TrainingLoop:
    """One run's steps. `progress`, the learner's parameters and the optimizer are its whole state."""

    def __init__(
        self,
        *,
        learner: Learner,
        rows: Rows,
        hyperparameters: Hyperparameters,
        events: Events,
        stop: StopFlag,
        save: Callable[[], None],
        look: Callable[[], None] = lambda: None,
        make_plan: Callable[[Sequence[int], Hyperparameters, Sequence[int]], TrainingPlan] = TrainingPlan,
        ranks: Ranks = ALONE,
        sampler: Sampler | None = None,
    ) -> None:
        """`save` is called when a checkpoint is due, `look` after each step.

        `ranks`: the processes that train together. `sampler` answers validation rows as far as time allows.
        """
        self.learner = learner
        self.progress = Progress()
        self.best: dict[str, Tensor] = {}
        self.optimizer = make_optimizer(learner.parameters, hyperparameters, device=learner.device)
        self._rows = rows
        self._hyperparameters = hyperparameters
        self._events = events
        self._stop = stop
        self._save, self._look = save, look
        self._ranks = ranks
        self._sampler = sampler
        metric = hyperparameters.early_stopping_metric
        can_judge = sampler is not None and (metric != "macro_f1" or sampler.has_classes)
        self._judges_answers = metric != "validation_loss" and can_judge
        if metric != "validation_loss" and not can_judge:
            why = "No answers are sampled in this run" if sampler is None else "The answers have no closed fields"
            events.log(f"{why}, so its validation loss says what is better.", "warning")
        self._lengths = [row.tokens for row in rows.train]
        self.plan = make_plan(self._lengths, hyperparameters, [row.tokens for row in rows.validation])
        self._validation_rows = [rows.validation[number] for number in self.plan.validation_rows]
        self._validation_steps = self.plan.validation_steps()
        self._shortest = min(range(len(self._lengths)), key=self._lengths.__getitem__)
        self._micro_batch_size = hyperparameters.micro_batch_size
        self._largest_part = 1  # rows of the largest micro-batch of the present batch
        self._speeds: list[tuple[float, int]] = []  # (seconds, tokens) of the last steps
        self._validation_seconds = self._sample_seconds = 0.0  # of the last check
        self._computed_tokens = 0.0  # of the last step, padding included
        self._load = MachineLoad(learner.device)

    def put_back(self, state: State) -> None:
        """Go on where a saved state was. Raises: KeyError, ValueError, RuntimeError if it does not fit."""
        checkpoints.restore(state, self.learner.parameters, self.optimizer)
        self.progress, self.best = state.progress, state.best

    def begin_anew(self, values: Tensor) -> None:
        """Forget what was put back: the trained tensors have these values, and nothing was learned yet."""
        self.progress, self.best = Progress(), {}
        self.learner.parameters.values.copy_(values)
        self.optimizer = make_optimizer(self.learner.parameters, self._hyperparameters, device=self.learner.device)
        checkpoints.seed_random(self._hyperparameters.seed)

    def run(self) -> None:
        """Train until the plan, the time or the patience is used up.

        Raises: StopRequested with the last finished step in place; TrainingError (nan_loss, out_of_memory, disk_full).
        """
        self._validate_if_due()
        while self.progress.step < self.plan.total_steps and not self._ranks.agree(self._ends_early()):
            if self._ranks.agree(self._stop.is_requested):
                raise StopRequested
            self._step()
            if self.progress.step % GIVE_BACK_EVERY == 0 and self.learner.device == "cpu":
                give_freed_memory_back()
            self._validate_if_due()
            self._look()
            if self.progress.step % self._hyperparameters.checkpoint_every_steps == 0:
                self._save()
        if self.progress.validated_step != self.progress.step:
            self._validate()

    # --- one step ------------------------------------------------------------------------------------------------

    def _step(self) -> None:
        started = time.perf_counter()
        step = self.progress.step
        batch = self.plan.batch(step)
        weight = sum(self._rows.train[row].weight for row in batch)
        self._ranks.draw_anew(self._hyperparameters.seed, step)
        own_loss_sum = self._accumulate_batch(self._ranks.share(batch, self._lengths), weight)
        loss_sum, self._computed_tokens = self._ranks.totals(own_loss_sum, self._computed_tokens)
        self._ranks.add_up(self.learner.parameters.gradients)
        norm = self.optimizer.clip(self._hyperparameters.max_grad_norm)
        if not (math.isfinite(loss_sum) and math.isfinite(norm)):
            raise self._diverged(step + 1)
        learning_rate = self.plan.learning_rate(step)
        self.optimizer.update(learning_rate)
        tokens = sum(self._lengths[row] for row in batch)
        self._count_step(time.perf_counter() - started, tokens, loss_sum, batch)
        self._report_step(loss_sum / weight, learning_rate, norm)

    def _accumulate_batch(self, batch: list[int], weight: int) -> float:
        """Sum the loss and gradient of a whole batch, with smaller micro-batches if memory runs out."""
        while True:
            before = checkpoints.random_state()
            try:
                return self._accumulate(batch, 1 / weight)
            except StopRequested:
                self._forget_batch(before)
                raise
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self._forget_batch(before)
                self._halve_micro_batches(error)

    def _accumulate(self, batch: list[int], scale: float) -> float:
        loss_sum = 0.0
        self._computed_tokens = 0.0
        parts = self._micro_batches(batch, self._lengths)
        self._largest_part = max(map(len, parts), default=1)
        more_elsewhere = self._parts_of_others(len(parts))
        for part in parts:
            self._check_stop_inside()
            self._computed_tokens += self.learner.computed_tokens([self._lengths[row] for row in part])
            loss_sum += self._compute([self._rows.train[row] for row in part], scale)
        for _ in range(more_elsewhere):
            self._compute([self._rows.train[self._shortest]], 0.0)
        return loss_sum

    def _compute(self, rows: Sequence[EncodedRow], scale: float) -> float:
        """Compute one micro-batch. Of a divided model, no process goes on where memory has run out in any of them."""
        if not self.learner.is_divided:
            return self.learner.accumulate(rows, scale)
        loss_sum, full = 0.0, None
        try:
            loss_sum = self.learner.accumulate(rows, scale)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            full = error
        if self._ranks.agree(full is not None):
            raise full or MemoryError("In another process.")
        return loss_sum

    def _micro_batches(self, rows: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
        return micro_batches(rows, lengths, self._micro_batch_size, self.learner.token_limit)

    def _parts_of_others(self, own: int) -> int:
        """Return how many more micro-batches another process computes, where all have to compute equally many."""
        return round(self._ranks.most(own)) - own if self.learner.is_divided else 0

    def _forget_batch(self, random_state: dict[str, Tensor]) -> None:
        """Undo a half-done batch, so that doing it again gives the same dropout."""
        self.learner.parameters.gradients.zero_()
        checkpoints.set_random_state(random_state)

    def _halve_micro_batches(self, error: BaseException) -> None:
        # Of a divided model, all processes halve at the same time, and shall come to the same.
        largest = round(self._ranks.most(self._largest_part)) if self.learner.is_divided else self._largest_part
        if largest == 1:
            raise TrainingError(
                "out_of_memory",
                "Memory ran out even with one row at a time. Choose shorter rows, a smaller base model, "
                "4-bit compression, or gradient checkpointing.",
            ) from error
        self._micro_batch_size = largest // 2
        _release_memory(self.learner.device)
        self._events.log(
            f"Memory ran out; going on with micro-batches of {self._micro_batch_size} rows. "
            "The batch, and so the result, stays the same.",
            level="warning",
        )

    def _check_stop_inside(self) -> None:
        """Stop in the middle of a batch, unless others wait for this process at its end."""
        if self._ranks.count == 1:
            self._stop.check()

    def _diverged(self, step: int) -> TrainingError:
        return TrainingError(
            "nan_loss",
            f"The loss of step {step} is not a number any more. Lower the learning rate, lengthen the warm-up or "
            "clip gradients harder; if it happens at the first step, the base model itself is broken.",
        )

    # --- validation ----------------------------------------------------------------------------------------------

    def _validate_if_due(self) -> None:
        step = self.progress.step
        if step in self._validation_steps and self.progress.validated_step != step:
            self._validate()

    def _validate(self) -> None:
        """Measure the validation loss, report it, and remember the best adapter if that was asked for."""
        rows = self._validation_rows
        if not rows:
            return
        started = time.perf_counter()
        loss_sum = 0.0
        lengths = [row.tokens for row in rows]
        parts = self._micro_batches(self._ranks.share(range(len(rows)), lengths), lengths)
        more_elsewhere = self._parts_of_others(len(parts))
        for part in parts:
            self._check_stop_inside()
            loss_sum += self.learner.loss_sum([rows[row] for row in part])
        for _ in range(more_elsewhere):
            self.learner.loss_sum([rows[0]])
        loss = self._ranks.totals(loss_sum)[0] / sum(row.weight for row in rows)
        self._count_validation(time.perf_counter() - started)
        if not math.isfinite(loss):
            raise self._diverged(self.progress.step)
        self._events.emit("metric", **self._place(), validation_loss=loss)
        self._note_validation(loss, self._sample())

    def _sample(self) -> float | None:
        """Answer validation rows with what was learned so far, unless validation would cost too much of the run.

        Returns how good they are, None if nothing was asked.
        """
        if self._sampler is None or not self._speeds:
            return None
        started = time.perf_counter()
        how_good = None
        if self._ranks.is_first:  # the others wait for what it says
            how_good = self._sampler.sample(self._place(), self._seconds_for_a_sample())
        how_good = self._ranks.of_first(how_good)
        seconds = self._sample_seconds = time.perf_counter() - started
        self.progress.seconds += seconds
        self.progress.validation_seconds += seconds
        return how_good

    def _seconds_for_a_sample(self) -> float:
        """Return how long answering may take now, so that there is as much left for each of the checks to come."""
        progress, checks = self.progress, self._checks_left()
        whole = progress.seconds + self._seconds_left()
        losses = progress.validation_seconds + checks * self._validation_seconds
        return (VALIDATION_SHARE * whole - losses) / (checks + 1)

    def _count_validation(self, seconds: float) -> None:
        self._validation_seconds = seconds
        self.progress.seconds += seconds
        self.progress.validation_seconds += seconds

    def _checks_left(self) -> int:
        return sum(1 for mark in self._validation_steps if mark > self.progress.step)

    def _note_validation(self, loss: float, exact_match: float | None) -> None:
        progress = self.progress
        progress.validation_loss, progress.validated_step = loss, progress.step
        if self._judges_answers and exact_match is None:
            return  # there was no time to ask: this check says nothing either way
        if self._is_better(loss, exact_match):
            progress.best_validation_loss, progress.best_exact_match = loss, exact_match
            progress.best_step, progress.checks_without_gain = progress.step, 0
            if self._hyperparameters.keep_weights == "best":
                self.best = self.learner.parameters.export(self.learner.parameters.values)
        else:
            progress.checks_without_gain += 1

    def _is_better(self, loss: float, exact_match: float | None) -> bool:
        """Tell whether a validation check is the best so far; of equally many exact answers the lower loss wins."""
        best_loss, best_match = self.progress.best_validation_loss, self.progress.best_exact_match
        if best_loss is None:
            return True
        if self._judges_answers and exact_match is not None and best_match is not None and exact_match != best_match:
            return exact_match > best_match
        return loss < best_loss

    # --- when to end, and what to tell ---------------------------------------------------------------------------

    def _ends_early(self) -> bool:
        minutes, patience = self._hyperparameters.max_minutes, self._hyperparameters.early_stopping_patience
        if minutes is not None and self.progress.seconds >= minutes * 60:
            self._events.log(f"The time limit of {minutes:g} minutes is reached.")
            return True
        if patience and self.progress.checks_without_gain >= patience:
            what = JUDGED[self._hyperparameters.early_stopping_metric] if self._judges_answers else "loss"
            self._events.log(f"The validation {what} has not improved in {patience} checks.")
            return True
        return False

    def _count_step(self, seconds: float, tokens: int, loss_sum: float, batch: list[int]) -> None:
        progress = self.progress
        progress.step += 1
        progress.seconds += seconds
        progress.trained_tokens += tokens
        weight = sum(self._rows.train[row].weight for row in batch)
        progress.trained_label_tokens += sum(self._rows.train[row].label_tokens for row in batch)
        progress.trained_weight += weight
        progress.loss_sum += loss_sum
        progress.recent = [*progress.recent, (loss_sum, weight)][-RECENT_STEPS:]
        self._speeds = [*self._speeds, (seconds, tokens)][-RECENT_STEPS:]

    def _report_step(self, loss: float, learning_rate: float, norm: float) -> None:
        step, total = self.progress.step, self.plan.total_steps
        if step % max(1, total // MOST_METRIC_EVENTS) and step != total:
            return
        seconds, tokens = self._speeds[-1]
        self._events.emit(
            "metric",
            **self._place(),
            loss=loss,
            learning_rate=learning_rate,
            grad_norm=norm,
            tokens_per_s=round(tokens / seconds, 1),
            eta_s=round(self._seconds_to_the_end(), 1),
            memory_bytes=memory_bytes(self.learner.device),
            padding_share=round(1 - tokens / self._computed_tokens, 4),
            **self._load.since_last_asked(),
        )

    def _place(self) -> dict[str, float]:
        step = self.progress.step
        return {
            "step": step,
            "total_steps": self.plan.total_steps,
            "epoch": round(step / self.plan.steps_per_epoch, 4),
        }

    def _seconds_to_the_end(self) -> float:
        """Estimate the rest of the run, with the answers at its checks taking as long as they did so far."""
        return self._within_limit(self._seconds_left() + self._checks_left() * self._sample_seconds)

    def _seconds_left(self) -> float:
        """Estimate the rest of the run from the speed of the last steps and the validation losses still to come."""
        seconds = sum(seconds for seconds, _ in self._speeds)
        tokens = sum(tokens for _, tokens in self._speeds)
        step = self.progress.step
        steps_left = (self.plan.total_steps - step) * self.plan.tokens_per_step * seconds / tokens
        checks_left = self._checks_left() * self._validation_seconds
        return self._within_limit(steps_left + checks_left)

    def _within_limit(self, seconds: float) -> float:
        if self._hyperparameters.max_minutes is None:
            return seconds
        return min(seconds, max(0.0, self._hyperparameters.max_minutes * 60 - self.progress.seconds))


def _release_memory(device: str) -> None:
    """Give cached blocks back to the GPU, which else stay cut for the larger micro-batch."""
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()

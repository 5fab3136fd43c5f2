"""A few real steps, to tell how long a whole run takes and how much memory it needs. Nothing of it is kept."""

from collections.abc import Sequence
from typing import Any

from experiments.hyperparameters import Hyperparameters
from experiments.trials import STEPS
from gpu_worker.trainer.events import Events
from gpu_worker.trainer.plan import TrainingPlan

# The first steps fill caches and are slower than all that follow; the last ones show the most memory.
WARM_UP_STEPS, LONGEST_STEPS = 3, 5


class PreflightPlan(TrainingPlan):
    """Steps spread evenly over an epoch, then the longest rows that there are; it knows the whole run's plan."""

    def __init__(
        self, lengths: Sequence[int], hyperparameters: Hyperparameters, validation_lengths: Sequence[int] = ()
    ) -> None:
        """Raises: ValueError if there are no rows to learn from."""
        super().__init__(lengths, hyperparameters, validation_lengths)
        self.whole_steps = self.total_steps
        self.whole_checks = len(super().validation_steps())
        self.whole_checkpoints = -(-self.whole_steps // hyperparameters.checkpoint_every_steps)
        self.total_steps = STEPS
        by_length = sorted(range(len(lengths)), key=lambda row: -lengths[row])
        self._longest = by_length[: hyperparameters.batch_size]

    def batch(self, step: int) -> list[int]:
        """Return the row numbers (0-based) of `step`, counted from 0."""
        if step >= STEPS - LONGEST_STEPS:
            return self._longest
        typical = STEPS - LONGEST_STEPS
        return super().batch(step * self.steps_per_epoch // typical)

    def validation_steps(self) -> frozenset[int]:
        """Return the end alone: one check tells how long each takes."""
        return frozenset({STEPS})

    def tokens_of(self, step: int) -> int:
        """Return how many tokens `step`, counted from 0, reads."""
        return sum(self._lengths[row] for row in self.batch(step))


class StepTimes(Events):
    """Passes events on, and remembers how fast each step was."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._speeds: dict[int, float] = {}

    def emit(self, event: str, **fields: Any) -> None:
        """Write one event."""
        if event == "metric" and fields.get("tokens_per_s"):
            self._speeds[fields["step"]] = fields["tokens_per_s"]
        self._events.emit(event, **fields)

    def steps(self, plan: PreflightPlan) -> list[tuple[float, int]]:
        """Return (seconds, tokens) of every step, in order."""
        tokens = {step: plan.tokens_of(step - 1) for step in sorted(self._speeds)}
        return [(count / self._speeds[step], count) for step, count in tokens.items()]


def seconds_per_token(steps: Sequence[tuple[float, int]]) -> float:
    """Return the pace of the typical steps, from (seconds, tokens) of all; their slowest and fastest do not count.

    A mean and not a median: what sometimes slows a step down slows the whole run down too.
    """
    typical = sorted(steps[WARM_UP_STEPS : STEPS - LONGEST_STEPS], key=lambda step: step[0] / step[1])
    counted = typical[1:-1] or typical or list(steps)
    return sum(seconds for seconds, _ in counted) / sum(tokens for _, tokens in counted)

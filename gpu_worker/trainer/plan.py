"""Which rows are learned in which step, and how fast: fixed before the first step, a function of seed and step alone.

So a resumed run needs no state of a sampler: it asks for the batch of its next step and gets the very same rows.
"""

import math
import random
from collections.abc import Sequence
from itertools import pairwise

from experiments.hyperparameters import Hyperparameters
from experiments.trials import VALIDATION_SHARE

# A validation token costs so much of a trained one: it goes forward only.
FORWARD_COST = 0.45
# Of the time that validation may take, what its losses may; the rest is for answers.
LOSSES_SHARE = VALIDATION_SHARE * 2 / 3
LEAST_VALIDATION_ROWS = 16  # of fewer, the loss jumps from check to check; before that there are fewer checks
FREE_VALIDATION_TOKENS = 4_096  # of all checks together: nobody waits for so few
BATCHES_PER_WINDOW = 16  # rows are sorted by length inside a window of so many batches: short padding, lively order


class TrainingPlan:
    """The steps of a run over rows of the given lengths (in tokens)."""

    def __init__(
        self, lengths: Sequence[int], hyperparameters: Hyperparameters, validation_lengths: Sequence[int] = ()
    ) -> None:
        """Raises: ValueError if there are no rows to learn from."""
        if not lengths:
            raise ValueError("A plan needs at least one row.")
        self._lengths = tuple(lengths)
        self._hyperparameters = hyperparameters
        self.steps_per_epoch = hyperparameters.steps_per_epoch(len(lengths))
        self.total_steps = hyperparameters.total_steps(len(lengths))
        self.tokens_per_step = sum(lengths) / self.steps_per_epoch
        self._epoch_in_memory: tuple[int, list[list[int]]] | None = None
        self._most_checks: int | None = None
        self.validation_rows: Sequence[int] = range(len(validation_lengths))
        # who wants no checks between the beginning and the end has all rows measured then
        if validation_lengths and hyperparameters.evaluations_per_epoch:
            count, self._most_checks = affordable_validation(
                validation_lengths, len(self._all_marks()), self.total_steps * self.tokens_per_step
            )
            self.validation_rows = _evenly(range(len(validation_lengths)), count)

    def batch(self, step: int) -> list[int]:
        """Return the row numbers (0-based) learned in `step`, counted from 0."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._epoch_in_memory is None or self._epoch_in_memory[0] != epoch:
            self._epoch_in_memory = (epoch, self._batches_of_epoch(epoch))
        return self._epoch_in_memory[1][position]

    def validation_steps(self) -> frozenset[int]:
        """Return after which steps the validation loss is measured: 0, the end, and evenly between.

        Where validation would take too much of the run's time, some of those between are left out.
        """
        marks = sorted(self._all_marks())
        return frozenset(marks if self._most_checks is None else _evenly(marks, self._most_checks))

    def _all_marks(self) -> set[int]:
        per_epoch = self._hyperparameters.evaluations_per_epoch
        marks = {0, self.total_steps}
        if per_epoch:
            distance = max(1.0, self.steps_per_epoch / per_epoch)
            count = int(self.total_steps / distance + 1e-9)
            marks |= {min(self.total_steps, round(i * distance)) for i in range(1, count + 1)}
        return marks

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of `step` (from 0): a linear warm-up, then the chosen way down."""
        chosen = self._hyperparameters
        warmup = math.ceil(chosen.warmup_share * self.total_steps)
        if step < warmup:
            return chosen.learning_rate * (step + 1) / warmup
        if chosen.schedule == "constant":
            return chosen.learning_rate
        done = (step - warmup) / max(1, self.total_steps - warmup)
        share = 1 - done if chosen.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
        floor = chosen.final_learning_rate_share
        return chosen.learning_rate * (floor + (1 - floor) * share)

    def _batches_of_epoch(self, epoch: int) -> list[list[int]]:
        """Shuffle, sort by length inside windows if wanted, cut into nearly equal batches, shuffle the batches."""
        # A string seed is hashed by its bytes: neighbouring seeds and epochs give unrelated orders.
        order = random.Random(f"{self._hyperparameters.seed}/{epoch}")  # noqa: S311 -- no secret
        rows = list(range(len(self._lengths)))
        order.shuffle(rows)
        edges = _even_edges(len(rows), self.steps_per_epoch)
        batches = []
        for first in range(0, self.steps_per_epoch, BATCHES_PER_WINDOW):
            window_edges = edges[first : first + BATCHES_PER_WINDOW + 1]
            start = window_edges[0]
            window = rows[start : window_edges[-1]]
            if self._hyperparameters.group_by_length:
                window.sort(key=self._lengths.__getitem__)
            batches += [window[low - start : high - start] for low, high in pairwise(window_edges)]
        order.shuffle(batches)
        return batches


def affordable_validation(lengths: Sequence[int], checks: int, training_tokens: float) -> tuple[int, int]:
    """Return on how many rows, and how often, the validation loss can be measured within its share of the time.

    `lengths`: tokens of the validation rows. First there are fewer rows, then fewer checks, then still fewer rows.
    """
    allowed = max(FREE_VALIDATION_TOKENS, LOSSES_SHARE / (1 - LOSSES_SHARE) * training_tokens / FORWARD_COST)
    rows_of_all_checks = allowed / (sum(lengths) / len(lengths))
    rows = min(len(lengths), max(LEAST_VALIDATION_ROWS, int(rows_of_all_checks / checks)))
    fewer = min(checks, max(2, int(rows_of_all_checks / rows)))
    return min(rows, max(1, int(rows_of_all_checks / fewer))), fewer


def _evenly(things: Sequence[int], count: int) -> Sequence[int]:
    """Return so many of the things, the first and the last among them where there are two or more."""
    if count >= len(things):
        return things
    last = len(things) - 1
    return [things[round(place * last / max(1, count - 1))] for place in range(count)]


def micro_batches(rows: Sequence[int], lengths: Sequence[int], size: int, tokens: int | None = None) -> list[list[int]]:
    """Cut a batch into parts of at most `size` rows of similar length, as equal in number as can be.

    `tokens`: most of them in one part, its rows padded to their longest; one row alone is never cut.
    """
    if not rows:
        return []
    by_length = sorted(rows, key=lengths.__getitem__)
    for count in range(math.ceil(len(rows) / size), len(rows) + 1):
        edges = _even_edges(len(rows), count)
        parts = [by_length[low:high] for low, high in pairwise(edges)]
        if tokens is None or all(len(part) * lengths[part[-1]] <= tokens for part in parts):
            return parts
    return [[row] for row in by_length]


def _even_edges(total: int, parts: int) -> list[int]:
    """Return the borders that cut `total` things into `parts` runs of nearly equal size."""
    return [total * i // parts for i in range(parts + 1)]

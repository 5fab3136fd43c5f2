"""Several tasks that each ask the model step by step, so that their steps are one: a step reads all weights once.

Tasks are plain functions in threads of their own, of which one works at a time. A task that wants a step waits; when
all that are left wait, the caller's thread computes one step for all of them. What a task gets does not depend on which
thread is quicker, because a step begins only when everybody waits.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from gpu_worker.engine.likelihood import Forward
from gpu_worker.engine.runner import StepRow

T = TypeVar("T")

MOST_LOGITS = 512
"""Most logit rows of one step: a vocabulary of 50,000 makes 100 MB of them."""


@dataclass
class _Wish:
    """The rows of a step that a task waits for, and what came of it."""

    rows: Sequence[StepRow]
    logits: Tensor | None = None
    error: Exception | None = None

    @property
    def logit_rows(self) -> int:
        return sum(row.logit_count for row in self.rows)


class Together:
    """Runs tasks that call `forward`, and computes what they ask for in common steps."""

    def __init__(self, forward: Forward) -> None:
        """`forward`: what computes a step, see `Runner.forward`."""
        self._compute = forward
        self._turn = threading.Condition()
        self._wishes: dict[int, _Wish] = {}
        self._open = 0
        self._own = threading.local()

    def run(self, tasks: Sequence[Callable[[], T]]) -> list[T]:
        """Return the tasks' results, in their order. Raises: what the first failing task raises."""
        if not tasks:
            return []
        self._open = len(tasks)
        with ThreadPoolExecutor(len(tasks)) as pool:
            running = [pool.submit(self._work, number, task) for number, task in enumerate(tasks)]
            self._compute_until_done()
        return [one.result() for one in running]

    def forward(self, rows: Sequence[StepRow]) -> Tensor:
        """Compute rows, together with those of the other tasks if this is called by a task."""
        number: int | None = getattr(self._own, "number", None)
        if number is None:
            return self._compute(rows)
        wish = self._wishes[number] = _Wish(rows)
        self._turn.notify_all()
        while wish.logits is None and wish.error is None:
            self._turn.wait()
        if wish.error is not None:
            raise wish.error
        assert wish.logits is not None
        return wish.logits

    def _work(self, number: int, task: Callable[[], T]) -> T:
        self._own.number = number
        with self._turn:  # held while the task works, lent to others while it waits
            try:
                return task()
            finally:
                self._open -= 1
                self._turn.notify_all()

    def _compute_until_done(self) -> None:
        with self._turn:
            while self._open:
                if len(self._wishes) < self._open:
                    self._turn.wait()
                    continue
                wishes = [self._wishes.pop(number) for number in sorted(self._wishes)]
                for group in _groups(wishes):
                    self._fulfil(group)
                self._turn.notify_all()

    def _fulfil(self, wishes: Sequence[_Wish]) -> None:
        try:
            logits = self._compute([row for wish in wishes for row in wish.rows])
        except Exception as error:  # noqa: BLE001 - belongs to the tasks, which say what it means
            for wish in wishes:
                wish.error = error
            return
        for wish, part in zip(wishes, torch.split(logits, [wish.logit_rows for wish in wishes]), strict=True):
            wish.logits = part


def _groups(wishes: Sequence[_Wish]) -> list[list[_Wish]]:
    """Cut the wishes into steps of few logit rows; a larger wish is alone."""
    groups: list[list[_Wish]] = []
    size = 0
    for wish in wishes:
        if not groups or size + wish.logit_rows > MOST_LOGITS:
            groups.append([])
            size = 0
        groups[-1].append(wish)
        size += wish.logit_rows
    return groups

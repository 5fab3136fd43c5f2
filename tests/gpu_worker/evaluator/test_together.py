"""Tasks that ask step by step get what they would get alone, in common steps."""

import pytest
import torch

from gpu_worker.engine.runner import StepRow
from gpu_worker.evaluator import together as module
from gpu_worker.evaluator.together import Together


def asked(token: int, count: int = 1) -> list[StepRow]:
    return [StepRow("one", (token,) * count, 0, (), None, count)]


class Counting:
    """Computes ten times the token as the only logit, and remembers the steps."""

    def __init__(self) -> None:
        self.steps: list[list[int]] = []

    def __call__(self, rows) -> torch.Tensor:
        self.steps.append([row.token_ids[0] for row in rows])
        if any(row.token_ids[0] < 0 for row in rows):
            raise ValueError("negative tokens")
        return torch.tensor([[10.0 * token] for row in rows for token in row.token_ids])


def sums(together: Together, first: int, steps: int):
    def task() -> float:
        return sum(float(together.forward(asked(first + step))) for step in range(steps))

    return task


def test_steps_are_common_and_results_each_ones_own():
    compute = Counting()
    together = Together(compute)
    assert together.run([sums(together, 1, 2), sums(together, 5, 1), sums(together, 7, 3)]) == [30.0, 50.0, 240.0]
    assert compute.steps == [[1, 5, 7], [2, 8], [9]]
    assert together.run([]) == []
    assert float(together.forward(asked(3))) == 30.0, "outside of tasks a step is computed at once"


def test_steps_hold_few_logits(monkeypatch):
    monkeypatch.setattr(module, "MOST_LOGITS", 3)
    compute = Counting()
    together = Together(compute)
    found = together.run([lambda token=token: together.forward(asked(token, 2)).tolist() for token in (1, 2, 3)])
    assert found == [[[10.0], [10.0]], [[20.0], [20.0]], [[30.0], [30.0]]]
    assert compute.steps == [[1], [2], [3]]


def test_errors_reach_whoever_asked_for_the_step():
    together = Together(Counting())
    with pytest.raises(ValueError, match="negative"):
        together.run([sums(together, 1, 2), sums(together, -5, 1)])
    assert together.run([sums(together, 1, 1)]) == [10.0], "and the next ones are not troubled"

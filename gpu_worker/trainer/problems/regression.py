"""Regression with numbers as text: the model writes the number, and is held to the form of a number.

A head that gives a number would be a second artefact that no engine of others can serve. Written as text, the number
goes through the same adapter, the same engine and the same API as every answer, and what is measured is exactly what
is served: the number in the answer.
"""

from pathlib import Path

from experiments.problem_file import MAX_DECIMALS, Problem
from gpu_worker.trainer.errors import TrainingError
from gpu_worker.trainer.rows import read_messages


def describe(train_rows: Path) -> Problem:
    """Return the form and the range of the training rows' numbers. Raises: TrainingError (bad_data)."""
    numbers, decimals = [], 0
    for row, messages in read_messages(train_rows):
        answer = messages[-1]["content"]
        try:
            numbers.append(float(answer))
        except ValueError as error:
            raise TrainingError(
                "bad_data", f"The answer of row {row} is no number. Regression needs numbers."
            ) from error
        decimals = max(decimals, len(answer.partition(".")[2]))
    if not numbers or min(numbers) == max(numbers):
        raise TrainingError("bad_data", "All training rows have the same number: there is nothing to learn.")
    return Problem(
        "regression",
        decimals=min(decimals, MAX_DECIMALS),
        negative=min(numbers) < 0,
        minimum=min(numbers),
        maximum=max(numbers),
    )

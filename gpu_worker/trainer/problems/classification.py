"""Classification with names as labels: the answer is the label, word for word.

Learning is that of a chat whose answers are labels. The probabilities of all labels come from scoring each of them as
the answer to the same prompt; so adapter, engine and evaluator are those of every other run, and a label added later
needs no new head.
"""

from pathlib import Path

from experiments.problem_file import MAX_LABEL_CHARACTERS, MAX_LABELS, Problem
from gpu_worker.trainer.errors import TrainingError
from gpu_worker.trainer.rows import read_messages


def describe(train_rows: Path) -> Problem:
    """Return the labels of the training rows, in alphabetical order. Raises: TrainingError (bad_data)."""
    labels = sorted({messages[-1]["content"] for _, messages in read_messages(train_rows)})
    if len(labels) < 2:
        raise TrainingError("bad_data", "All training rows have the same label. A classification needs two or more.")
    if len(labels) > MAX_LABELS or max(map(len, labels)) > MAX_LABEL_CHARACTERS:
        raise TrainingError(
            "bad_data", f"The answers are no labels: there are {len(labels)} different ones, or one is a long text."
        )
    return Problem("classification", labels=tuple(labels))

"""One module for each problem type: how its rows are encoded, what its loss is, and what the adapter answers.

Chat, classification and regression learn the answer's tokens and differ only in what the answers are.
"""

from pathlib import Path

from experiments.hyperparameters import Hyperparameters
from experiments.problem_file import Problem
from gpu_worker.trainer.problems import classification


def describe(train_rows: Path, chosen: Hyperparameters) -> Problem | None:
    """Return what the adapter's `problem.json` says, None for free text. Raises: TrainingError (bad_data)."""
    if chosen.problem_type == "classification":
        return classification.describe(train_rows)
    return None

"""One module for each problem type: how its rows are encoded, what its loss is, and what the adapter answers.

Chat, classification and regression learn the answer's tokens and differ only in what the answers are. Pre-training
learns all tokens. Preferences compare two answers and have a loss of their own.
"""

from pathlib import Path

from datasets_app.rendering import ChatRenderer
from experiments.hyperparameters import Hyperparameters
from experiments.problem_file import Problem
from gpu_worker.trainer.problems import classification, preference, pretraining, regression
from gpu_worker.trainer.rows import EncodedRows, encode_file


def encode(path: Path, renderer: ChatRenderer, chosen: Hyperparameters, *, at_most: int | None = None) -> EncodedRows:
    """Return the rows of a file of JSON lines as the chosen problem type learns them.

    Raises: TrainingError (bad_data, bad_base_model).
    """
    if chosen.problem_type == "pretraining":
        return pretraining.encode(path, renderer, chosen, at_most=at_most)
    if chosen.problem_type == "preference":
        return preference.encode(path, renderer, chosen, at_most=at_most)
    return encode_file(path, renderer, chosen, at_most=at_most)


def describe(train_rows: Path, chosen: Hyperparameters) -> Problem | None:
    """Return what the adapter's `problem.json` says, None for free text. Raises: TrainingError (bad_data)."""
    if chosen.problem_type == "classification":
        return classification.describe(train_rows)
    if chosen.problem_type == "regression":
        return regression.describe(train_rows)
    if chosen.problem_type == "pretraining":
        return Problem("pretraining")
    if chosen.problem_type == "preference":
        return preference.describe(chosen)
    return None

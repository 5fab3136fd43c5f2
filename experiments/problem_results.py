"""Reads what the evaluator measured for a problem type, and scores it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.problem_file import Problem
from experiments.scoring.names import MODELS
from experiments.scoring.problems import ProblemReport, ScoredRow, score_problem


def score_problem_file(path: Path, predictions: Sequence[Mapping[str, Any]]) -> ProblemReport | None:
    """Return the figures of a run's problem type, None for a chat, or if no row could be measured.

    Raises: OSError, ValueError, LookupError or TypeError if it is not what an evaluator writes.
    """
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    problem = Problem(**{**content["problem"], "labels": tuple(content["problem"]["labels"])})
    rows = [_scored(item, predictions[item["place"]]) for item in content["rows"]]
    return score_problem(problem, rows) if rows else None


def _scored(item: Mapping[str, Any], answered: Mapping[str, Any]) -> ScoredRow:
    return ScoredRow(
        place=item["place"],
        expected=answered["expected"],
        answers={subject: answered.get(subject) or "" for subject in MODELS},
        scores=item["scores"],
    )

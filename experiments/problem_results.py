"""Reads what the evaluator measured for a problem type, and scores it."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.problem_file import Problem
from experiments.scoring.calibration import FieldCalibration, Judged, calibrate_field, probabilities
from experiments.scoring.choosing import LABEL
from experiments.scoring.names import MODELS, TUNED
from experiments.scoring.problems import ProblemReport, ScoredRow, score_problem


def score_problem_file(path: Path, predictions: Sequence[Mapping[str, Any]]) -> ProblemReport | None:
    """Return the figures of a run's problem type, None for a chat, or if no row could be measured.

    Raises: OSError, ValueError, LookupError or TypeError if it is not what an evaluator writes.
    """
    if not path.is_file():
        return None
    problem, rows, _learned = _read(path, predictions)
    return score_problem(problem, rows) if rows else None


def calibrate_labels(path: Path, predictions: Sequence[Mapping[str, Any]]) -> FieldCalibration | None:
    """Return how far the confidence of a classification can be trusted; None if its evaluator learned nothing of that.

    Raises: as `score_problem_file`.
    """
    problem, rows, learned = _read(path, predictions) if path.is_file() else (None, [], None)
    if problem is None or not learned or not rows:
        return None
    temperature = learned["temperature"]
    raw, scaled = ([_judged(problem, row, one) for row in rows] for one in (1.0, temperature))
    calibration = [(sure, right) for sure, right in learned["rows"]]
    return calibrate_field(LABEL, temperature, calibration, raw, scaled, labels=learned["labels"])


def _judged(problem: Problem, row: ScoredRow, temperature: float) -> Judged:
    shares = probabilities([math.log(max(share, 1e-12)) for share in row.scores[TUNED]], temperature)
    best = max(shares)
    return best, problem.labels[shares.index(best)] == row.expected


def _read(
    path: Path, predictions: Sequence[Mapping[str, Any]]
) -> tuple[Problem, list[ScoredRow], Mapping[str, Any] | None]:
    content = json.loads(path.read_text(encoding="utf-8"))
    problem = Problem(**{**content["problem"], "labels": tuple(content["problem"]["labels"])})
    rows = [_scored(item, predictions[item["place"]]) for item in content["rows"]]
    return problem, rows, content.get("calibration")


def _scored(item: Mapping[str, Any], answered: Mapping[str, Any]) -> ScoredRow:
    return ScoredRow(
        place=item["place"],
        expected=answered["expected"],
        answers={subject: answered.get(subject) or "" for subject in MODELS},
        scores=item["scores"],
    )

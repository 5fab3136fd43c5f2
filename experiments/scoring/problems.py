"""The part of the quality report that belongs to one problem type: its own figures, and what they say."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from experiments.problem_file import Problem
from experiments.scoring.classes import class_scores, confusion
from experiments.scoring.classification import area_under_curve, log_loss, macro_f1
from experiments.scoring.intervals import bootstrap_interval, clear_code
from experiments.scoring.names import MODELS, TUNED, UNTUNED
from experiments.scoring.regression import number_of, number_scores

# What the rest of a row says is bounded, so that one strange row cannot decide an interval's width alone.
MOST: Final = 1e6


@dataclass(frozen=True)
class ScoredRow:
    """A held-out row by its place among them: what is expected, both answers, and how likely given texts are.

    `scores` per subject: the probabilities of all labels (classification), the log probabilities of the better and
    the worse answer (preference), or log probability and number of tokens (pre-training); empty for a regression.
    """

    place: int
    expected: str
    answers: Mapping[str, str]
    scores: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Figure:
    """One figure of both models. `style` is percent or decimal; `untuned` is None where it has no meaning."""

    name: str
    tuned: float | None
    untuned: float | None
    style: str
    lower_is_better: bool = False


@dataclass(frozen=True)
class ProblemReport:
    """What to show for a problem type, and the score of each row: {place: (tuned, untuned)}, 0..1, higher is better.

    `gains` tell for each row by how much the tuned model is better, in the unit of the first figure.
    """

    problem_type: str
    figures: tuple[Figure, ...]
    gains: tuple[float, ...]
    row_scores: dict[int, tuple[float, float]]
    extra: dict[str, object]

    def to_dict(self) -> dict[str, Any]:
        """Return what the report keeps, JSON-ready."""
        return {
            "problem_type": self.problem_type,
            "rows": len(self.gains),
            "figures": [asdict(figure) for figure in self.figures],
            "verdict": self._verdict(),
            **self.extra,
        }

    def _verdict(self) -> dict[str, Any]:
        interval = bootstrap_interval(self.gains, least=-MOST, most=MOST, seed=0)
        low, high = (interval.mean,) * 2 if min(self.gains) == max(self.gains) else (interval.low, interval.high)
        code = clear_code(len(self.gains), low, high, above="clearly_better", below="clearly_worse")
        return {"code": code, "gain": interval.mean, "low": low, "high": high, **asdict(self.figures[0])}


def score_problem(problem: Problem, rows: Sequence[ScoredRow]) -> ProblemReport:
    """Return the figures of a problem type. Raises: ValueError without rows, KeyError for one without figures."""
    if not rows:
        raise ValueError("a report needs rows")
    score = {"classification": _labels, "regression": _numbers, "preference": _preferences, "pretraining": _texts}
    return score[problem.problem_type](problem, rows)


def _labels(problem: Problem, rows: Sequence[ScoredRow]) -> ProblemReport:
    expected = [row.expected for row in rows]
    answers = {subject: [row.answers[subject].strip() for row in rows] for subject in MODELS}
    hits = {
        subject: [float(wanted == given) for wanted, given in zip(expected, answers[subject], strict=True)]
        for subject in MODELS
    }
    probabilities = {subject: [row.scores[subject] for row in rows] for subject in MODELS}

    def figure(name: str, style: str, values: list[float | None], *, lower_is_better: bool = False) -> Figure:
        return Figure(name, values[0], values[1], style, lower_is_better)

    labels = problem.labels
    figures = (
        figure("accuracy", "percent", [sum(hits[one]) / len(rows) for one in MODELS]),
        figure("macro_f1", "decimal", [macro_f1(expected, answers[one]) for one in MODELS]),
        figure(
            "log_loss",
            "decimal",
            [log_loss(expected, labels, probabilities[one]) for one in MODELS],
            lower_is_better=True,
        ),
        figure("auc", "decimal", [area_under_curve(expected, labels, probabilities[one]) for one in MODELS]),
    )
    scores = {row.place: (hits[TUNED][place], hits[UNTUNED][place]) for place, row in enumerate(rows)}
    extra: dict[str, object] = {
        "confusion": asdict(confusion(expected, answers[TUNED])),
        "classes": [asdict(one) for one in class_scores(expected, answers[TUNED])],
    }
    return ProblemReport(problem.problem_type, figures, _differences(hits), scores, extra)


def _numbers(problem: Problem, rows: Sequence[ScoredRow]) -> ProblemReport:
    expected = [float(row.expected) for row in rows]
    numbers = {subject: [number_of(row.answers[subject]) for row in rows] for subject in MODELS}
    tuned, untuned = (number_scores(expected, numbers[subject]) for subject in MODELS)
    mean = sum(expected) / len(expected)
    gains, scores = [], {}
    scale = tuned.mae + untuned.mae or 1.0
    for place, row in enumerate(rows):
        off = [abs(expected[place] - _or(numbers[subject][place], mean)) for subject in MODELS]
        gains.append(off[1] - off[0])
        scores[row.place] = (1 / (1 + off[0] / scale), 1 / (1 + off[1] / scale))
    figures = (
        Figure("mae", tuned.mae, untuned.mae, "decimal", lower_is_better=True),
        Figure("mse", tuned.mse, untuned.mse, "decimal", lower_is_better=True),
        Figure("rmse", tuned.rmse, untuned.rmse, "decimal", lower_is_better=True),
        Figure("r2", tuned.r2, untuned.r2, "decimal"),
        Figure("unreadable", tuned.unreadable / len(rows), untuned.unreadable / len(rows), "percent", True),
    )
    return ProblemReport(problem.problem_type, figures, tuple(gains), scores, {})


def _preferences(problem: Problem, rows: Sequence[ScoredRow]) -> ProblemReport:
    """The reward of an answer is β · log(tuned / untuned): Rafailov et al. 2023, arXiv:2305.18290, section 4."""
    beta = problem.beta if problem.beta is not None else 1.0
    margins, scores = [], {}
    for row in rows:
        (better, worse), (better_before, worse_before) = row.scores[TUNED], row.scores[UNTUNED]
        margins.append(beta * ((better - better_before) - (worse - worse_before)))
        scores[row.place] = (_sigmoid(margins[-1]), 0.5)
    prefers = {one: [float(row.scores[one][0] > row.scores[one][1]) for row in rows] for one in MODELS}
    figures = (
        Figure("reward_margin", sum(margins) / len(rows), 0.0, "decimal"),
        Figure("reward_accuracy", sum(margin > 0 for margin in margins) / len(rows), None, "percent"),
        Figure("prefers_better", sum(prefers[TUNED]) / len(rows), sum(prefers[UNTUNED]) / len(rows), "percent"),
    )
    return ProblemReport(problem.problem_type, figures, tuple(margins), scores, {})


def _texts(problem: Problem, rows: Sequence[ScoredRow]) -> ProblemReport:
    losses = {one: [-row.scores[one][0] / row.scores[one][1] for row in rows] for one in MODELS}
    totals = {one: -sum(row.scores[one][0] for row in rows) / sum(row.scores[one][1] for row in rows) for one in MODELS}
    gains = tuple(before - after for after, before in zip(losses[TUNED], losses[UNTUNED], strict=True))
    figures = (
        Figure("loss", totals[TUNED], totals[UNTUNED], "decimal", lower_is_better=True),
        Figure("perplexity", _exp(totals[TUNED]), _exp(totals[UNTUNED]), "decimal", lower_is_better=True),
    )
    scores = {row.place: (math.exp(-losses[TUNED][n]), math.exp(-losses[UNTUNED][n])) for n, row in enumerate(rows)}
    return ProblemReport(problem.problem_type, figures, gains, scores, {})


def _differences(hits: Mapping[str, Sequence[float]]) -> tuple[float, ...]:
    return tuple(after - before for after, before in zip(hits[TUNED], hits[UNTUNED], strict=True))


def _or(number: float | None, instead: float) -> float:
    return instead if number is None else number


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value > -700 else 0.0


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))

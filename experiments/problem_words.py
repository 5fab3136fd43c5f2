"""What the quality page says about the figures of a problem type, in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext as _

from experiments.scoring.names import MODELS
from experiments.verdicts import VerdictText, headline
from portal.display import numbers


@dataclass(frozen=True)
class FigureWords:
    """One figure as it is shown: its name, what it means, and both models' values; "–" where there is none."""

    label: str
    help: str
    tuned: str
    untuned: str


@dataclass(frozen=True)
class ProblemWords:
    """The part of the page that belongs to the problem type. `learns_answers`: exact match means something."""

    title: str
    verdict: VerdictText
    figures: tuple[FigureWords, ...]
    learns_answers: bool


def problem_words(problem: Mapping[str, Any]) -> ProblemWords:
    """Return the words for a report's `problem` (experiments.scoring.problems.ProblemReport.to_dict)."""
    kind = str(problem["problem_type"])
    titles = {
        "classification": _("Labels"),
        "regression": _("Numbers"),
        "preference": _("Preferences"),
        "pretraining": _("Plain text"),
    }
    return ProblemWords(
        title=titles.get(kind, kind),
        verdict=_verdict(problem["verdict"]),
        figures=tuple(_figure(figure) for figure in problem["figures"]),
        learns_answers=kind == "classification",
    )


def _figure(figure: Mapping[str, Any]) -> FigureWords:
    label, help_text = _words(str(figure["name"]))
    return FigureWords(label, help_text, *(_shown(figure[name], figure["style"]) for name in MODELS))


def _shown(value: float | None, style: str) -> str:
    if value is None:
        return "–"
    return numbers.percent(value) if style == "percent" else numbers.significant(value)


def _words(name: str) -> tuple[str, str]:
    """Return name and meaning of a figure."""
    words = {
        "accuracy": (_("Accuracy"), _("Share of rows that get the right label.")),
        "macro_f1": (_("Macro F1"), _("Mean F1 of all labels; rare ones count as much as frequent ones.")),
        "log_loss": (_("Log loss"), _("How far the probabilities are from the truth. Lower is better.")),
        "auc": (_("AUC"), _("How often the right label gets more probability than a wrong row. 0.5 is chance.")),
        "mae": (_("Mean absolute error"), _("How far the numbers are off on average. Lower is better.")),
        "mse": (_("Mean squared error"), _("Large errors count more. Lower is better.")),
        "rmse": (_("Root of the squared error"), _("In the unit of the numbers. Lower is better.")),
        "r2": (_("R²"), _("Share of the differences that is explained. 0: no better than always the mean.")),
        "unreadable": (_("Answers that are no number"), _("They count as the mean of the right numbers.")),
        "reward_margin": (
            _("Reward margin"), _("How much more the tuned model came to like the better answer than the worse one."),
        ),
        "reward_accuracy": (_("Reward accuracy"), _("Share of rows in which this margin is above zero.")),
        "prefers_better": (_("Better answer likelier"), _("Share of rows in which a model finds it likelier at all.")),
        "loss": (_("Loss per token"), _("In nats. Lower is better.")),
        "perplexity": (_("Perplexity"), _("Among how many words a model wavers at each step. Lower is better.")),
    }  # fmt: skip
    return words.get(name, (name, ""))


def _verdict(verdict: Mapping[str, Any]) -> VerdictText:
    tone, title = headline(str(verdict["code"]))
    figure = _figure(verdict)
    style = str(verdict["style"])
    sentence = _(
        "%(figure)s on held-out rows: tuned %(tuned)s, untuned %(untuned)s. Row by row the tuned model is better by "
        "%(gain)s on average; with this many rows the truth lies between %(low)s and %(high)s."
    )
    facts = {name: _shown(verdict[name], style) for name in ("gain", "low", "high")}
    facts |= {"figure": figure.label, "tuned": figure.tuned, "untuned": figure.untuned}
    return VerdictText(tone, title, sentence % facts)

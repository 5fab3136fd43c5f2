"""The first sentences of the quality report, in plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext as _

from experiments.scoring.names import CONSTRAINED, MAJORITY, SCORED, TFIDF, TUNED, UNTUNED
from portal.display import numbers


@dataclass(frozen=True)
class VerdictText:
    """What tuning brought: a tone for the notice, a title, and sentences with the numbers."""

    tone: str
    title: str
    sentence: str


def subject_label(name: str) -> str:
    """Return what people call one of those who answered."""
    return {
        TUNED: _("Tuned, answering freely"),
        CONSTRAINED: _("Tuned, bound to the schema"),
        SCORED: _("Tuned, choosing among allowed values"),
        UNTUNED: _("Untuned model"),
        TFIDF: _("TF-IDF with logistic regression"),
        MAJORITY: _("Most frequent answer"),
    }.get(name, name)


def short_label(name: str) -> str:
    """Return the same where there is little room."""
    return {
        TUNED: _("Tuned"),
        CONSTRAINED: _("With schema"),
        SCORED: _("Scored"),
        UNTUNED: _("Untuned"),
        TFIDF: _("TF-IDF"),
        MAJORITY: _("Most frequent"),
    }.get(name, name)


def verdict_of(verdict: Mapping[str, Any]) -> VerdictText:
    """Return the words for a report's `verdict` (experiments.scoring.Verdict as a dict).

    The first sentence says whether the model beats the simple baseline, if one was asked.
    """
    against = verdict.get("against_baseline") or []
    tone, title = headline(str(verdict["code"]))
    sentences = _beside_the_untuned(verdict)
    if against:
        tone, title = _headline_beside_baseline(against) or (tone, title)
        sentences = [*_beside_the_baseline(against), *sentences]
    return VerdictText(tone, title, " ".join(sentences))


def _beside_the_untuned(verdict: Mapping[str, Any]) -> list[str]:
    shares = ("tuned", "untuned", "tuned_low", "tuned_high", "weakest_accuracy")
    shown = {name: numbers.percent(verdict[name]) for name in shares if verdict.get(name) is not None}
    facts = {**verdict, **shown, "rows": numbers.thousands(verdict["rows"])}
    if verdict.get("untuned") is None:
        parts = [_("Of %(rows)s held-out rows, %(tuned)s are answered exactly.")]
    else:
        parts = [
            _("Of %(rows)s held-out rows, the tuned model answers %(tuned)s exactly, the untuned model %(untuned)s.")
        ]
    parts.append(_("With this many rows the true share lies between %(tuned_low)s and %(tuned_high)s."))
    if verdict.get("weakest_field"):
        parts.append(_("Weakest field: %(weakest_field)s, right in %(weakest_accuracy)s of the rows."))
    return [part % facts for part in parts]


def headline(code: str) -> tuple[str, str]:
    """Return tone and title for what a comparison with the untuned model found (a report's `code`)."""
    return {
        "clearly_better": ("success", _("Clearly better than the untuned model")),
        "clearly_worse": ("danger", _("Worse than the untuned model")),
        "no_clear_difference": ("warning", _("No clear difference from the untuned model")),
        "too_few_rows": ("info", _("Too few rows to be sure")),
    }.get(code, ("info", _("How the tuned model answers")))


# --- beside the simple baseline ----------------------------------------------------------------------------------


def _headline_beside_baseline(against: Sequence[Mapping[str, Any]]) -> tuple[str, str] | None:
    code = against[0]["code"]
    if code == "too_few_rows":
        return None
    if code == "beats":
        return "success", _("Beats the simple baseline")
    if any(one["code"] == "beats" for one in against):
        return "warning", _("Beats the simple baseline only when asked another way")
    if code == "no_clear_difference":
        return "warning", _("Not clearly better than the simple baseline")
    return "danger", _("Does not beat the simple baseline")


def _beside_the_baseline(against: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the sentence on how the model answers by itself, then one on each other way that comes out otherwise."""
    first, *others = against
    words = {
        "beats": _("The tuned model beats the simple baseline (%(baseline)s): %(reached)s against %(simple)s."),
        "does_not_beat": _(
            "The tuned model does not beat the simple baseline (%(baseline)s): %(reached)s against %(simple)s."
        ),
        "no_clear_difference": _(
            "Whether the tuned model beats the simple baseline (%(baseline)s) is not clear: %(reached)s against "
            "%(simple)s, the difference lies between %(low)s and %(high)s."
        ),
        "too_few_rows": _(
            "The rows are too few to say whether the tuned model beats the simple baseline (%(baseline)s): %(reached)s "
            "against %(simple)s."
        ),
    }
    other_words = {
        "beats": _("Asked another way (%(way)s), it beats it: %(reached)s."),
        "does_not_beat": _("Asked another way (%(way)s), it does not beat it: %(reached)s."),
        "no_clear_difference": _("Asked another way (%(way)s), the difference is not clear: %(reached)s."),
    }
    sentences = [words[first["code"]] % _facts(first)]
    sentences += [other_words[one["code"]] % _facts(one) for one in others if one["code"] != first["code"]]
    return sentences


def _facts(one: Mapping[str, Any]) -> dict[str, str]:
    return {
        "way": subject_label(one["way"]),
        "baseline": subject_label(one["baseline"]),
        "reached": numbers.percent(one["reached"]),
        "simple": numbers.percent(one["baseline_reached"]),
        "low": numbers.points(one["low"]),
        "high": numbers.points(one["high"]),
    }

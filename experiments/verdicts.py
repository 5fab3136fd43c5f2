"""The first sentences of the quality report, in plain words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext as _

from portal.display import numbers


@dataclass(frozen=True)
class VerdictText:
    """What tuning brought: a tone for the notice, a title, and a sentence with the numbers."""

    tone: str
    title: str
    sentence: str


def verdict_of(verdict: dict[str, Any]) -> VerdictText:
    """Return the words for a report's `verdict` (experiments.scoring.Verdict as a dict)."""
    tone, title = _headline(str(verdict["code"]))
    shares = ("tuned", "untuned", "tuned_low", "tuned_high", "weakest_accuracy")
    shown = {name: numbers.percent(verdict[name]) for name in shares if verdict.get(name) is not None}
    facts = {**verdict, **shown}
    if verdict.get("untuned") is None:
        parts = [_("Of %(rows)s held-out rows, %(tuned)s are answered exactly.")]
    else:
        parts = [
            _("Of %(rows)s held-out rows, the tuned model answers %(tuned)s exactly, the untuned model %(untuned)s.")
        ]
    parts.append(_("With this many rows the true share lies between %(tuned_low)s and %(tuned_high)s."))
    if verdict.get("weakest_field"):
        parts.append(_("Weakest field: %(weakest_field)s, right in %(weakest_accuracy)s of the rows."))
    return VerdictText(tone, title, " ".join(part % facts for part in parts))


def _headline(code: str) -> tuple[str, str]:
    return {
        "clearly_better": ("success", _("Clearly better than the untuned model")),
        "clearly_worse": ("danger", _("Worse than the untuned model")),
        "no_clear_difference": ("warning", _("No clear difference from the untuned model")),
        "too_few_rows": ("info", _("Too few rows to be sure")),
    }.get(code, ("info", _("How the tuned model answers")))

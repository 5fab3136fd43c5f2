"""What the findings are called, what they mean and what to do about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from django.utils.translation import gettext_noop

from datasets_app.doctor.report import Finding


@dataclass(frozen=True)
class Sentences:
    """The words of one kind of finding; `title` may name `%(count)d` and the finding's params."""

    title: str
    meaning: str
    advice: str


SENTENCES: Final[Mapping[str, Sentences]] = {
    "duplicate": Sentences(
        gettext_noop("Repeated rows: %(count)d"),
        gettext_noop(
            "These rows ask and answer exactly what an earlier row of the same split does. "
            "Training gives their example more weight than the others."
        ),
        gettext_noop("Leave the repetitions out. Keep them only if the weight is meant."),
    ),
    "leak": Sentences(
        gettext_noop("Questions shared between splits: %(count)d"),
        gettext_noop(
            "The same question stands in a split that is kept for measuring (%(held_out)d rows there). "
            "The model is asked what it has already seen, so its quality looks better than it is."
        ),
        gettext_noop("Leave these rows out of training, or split the dataset again so that equal rows stay together."),
    ),
}


def title(finding: Finding, gettext: Callable[[str], str]) -> str:
    """Return the heading of a finding in the reader's language."""
    return _filled(SENTENCES[finding.code].title, finding, gettext)


def meaning(finding: Finding, gettext: Callable[[str], str]) -> str:
    """Return what a finding means for training."""
    return _filled(SENTENCES[finding.code].meaning, finding, gettext)


def advice(finding: Finding, gettext: Callable[[str], str]) -> str:
    """Return what to do about a finding."""
    return _filled(SENTENCES[finding.code].advice, finding, gettext)


def _filled(text: str, finding: Finding, gettext: Callable[[str], str]) -> str:
    return gettext(text) % {"count": finding.count, **finding.params}

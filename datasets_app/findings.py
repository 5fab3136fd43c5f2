"""What is odd about rows that are each in order: repeated prompts, contradictions, rows shared between splits."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import Final

from django.utils.translation import gettext, gettext_noop

from datasets_app.models import Split
from datasets_app.rows import CanonicalRow

# Bounds the memory (about 100 bytes a row); beyond it, rows are compared with these only.
MAX_COMPARED_ROWS: Final = 500_000
FEW_ROWS: Final = 50

WARNINGS: Final[Mapping[str, str]] = {
    "few_rows": gettext_noop(
        "There are only %(count)d training rows. A model learns little from so few; a few hundred make a fair start."
    ),
    "repeated": gettext_noop("%(count)d training rows repeat the conversation and the answer of another row."),
    "contradictory": gettext_noop(
        "%(count)d training rows ask what another row asks, but with a different answer. "
        "The model cannot learn both; look for the rows and decide."
    ),
    "validation_in_training": gettext_noop(
        "%(count)d validation rows ask what a training row asks, so the validation loss looks better than it is."
    ),
    "test_in_training": gettext_noop(
        "%(count)d test rows ask what a training row asks, so the quality figures look better than they are."
    ),
}


def warning_sentence(warning: Mapping[str, object]) -> str:
    """Return a stored warning in the reader's language."""
    return gettext(WARNINGS[str(warning["code"])]) % warning


class Findings:
    """Compares rows by short hashes, training rows first."""

    def __init__(self) -> None:
        self._answers: dict[int, int] = {}
        self._counts: Counter[str] = Counter()
        self._training_rows = 0

    def add_training(self, row: CanonicalRow) -> None:
        """Note a training row."""
        self._training_rows += 1
        question, answer = _question(row), _short_hash(row.answer)
        known = self._answers.get(question)
        if known is not None:
            self._counts["repeated" if known == answer else "contradictory"] += 1
        elif len(self._answers) < MAX_COMPARED_ROWS:
            self._answers[question] = answer

    def add_held_out(self, split: Split, row: CanonicalRow) -> None:
        """Note a validation or test row, after all training rows."""
        if _question(row) in self._answers:
            self._counts[f"{split.value}_in_training"] += 1

    def warnings(self) -> list[dict[str, object]]:
        """Return the findings as {code, count}, in the order of `WARNINGS`."""
        if self._training_rows < FEW_ROWS:
            self._counts["few_rows"] = self._training_rows
        return [{"code": code, "count": self._counts[code]} for code in WARNINGS if self._counts[code]]


def _question(row: CanonicalRow) -> int:
    return _short_hash("\0".join(message["content"] for message in row.messages[:-1]))


def _short_hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")

"""Which languages people write in, estimated from a sample of the prompts."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any, Final

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from datasets_app.doctor.table import Batch, Findings

MAX_ROWS: Final = 2_000
MAX_CHARACTERS: Final = 300
# Of fewer letters nobody can tell the language.
MIN_LETTERS: Final = 20
# Rarer languages are mostly mistakes of the guess.
MIN_SHARE: Final = 0.02
UNKNOWN: Final = "unknown"
OTHER: Final = "other"


class Languages:
    """Guesses the language of a sample of rows."""

    def __init__(self, rows: int) -> None:
        self._stride = max(1, -(-rows // MAX_ROWS))
        self._counts: Counter[str] = Counter()

    def add(self, batch: Batch) -> None:
        """Look at the sampled rows of a batch."""
        for position, row in enumerate(batch.rows, start=batch.first):
            if position % self._stride == 0:
                self._counts[language_of(row.prompt)] += 1

    def report(self, findings: Findings) -> dict[str, Any]:
        """Return {"examined": rows, "percent": {language: share}}; note it if there are several languages."""
        examined = sum(self._counts.values())
        if not examined:
            return {}
        frequent = {name: n for name, n in self._counts.most_common() if n >= MIN_SHARE * examined and name != UNKNOWN}
        rest = examined - sum(frequent.values()) - self._counts[UNKNOWN]
        counts = {**frequent, OTHER: rest, UNKNOWN: self._counts[UNKNOWN]}
        percent = {name: round(100 * n / examined, 1) for name, n in counts.items() if n}
        if len(frequent) > 1:
            shown = ", ".join(f"{name} {percent[name]:g}%" for name in frequent)
            findings.note("languages", "info", len(frequent), {"languages": shown})
        return {"examined": examined, "percent": percent}


def language_of(text: str) -> str:
    """Return the ISO 639-1 code of a text's language, `UNKNOWN` if it is too short to tell."""
    part = text[:MAX_CHARACTERS]
    if sum(map(str.isalpha, part)) < MIN_LETTERS:
        return UNKNOWN
    return str(_identifier().classify(part)[0])


@cache
def _identifier() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE)

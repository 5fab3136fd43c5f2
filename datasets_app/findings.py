"""What is odd about rows that are each in order: repeated prompts, contradictions, rows shared between splits. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from datasets_app.readers.sentences import gettext_noop
from datasets_app.splits import SPLITS, TEST, TRAIN, VALIDATION, Parts, shared

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

Hashes = npt.NDArray[np.int64]


def warnings_of(questions: Hashes, answers: Hashes, parts: Parts) -> list[dict[str, object]]:
    """Return the findings as {code, count}, in the order of `WARNINGS`."""
    counts = dict.fromkeys(WARNINGS, 0)
    if (rows := int((parts == TRAIN).sum())) < FEW_ROWS:
        counts["few_rows"] = rows
    # Few rows repeat others as a rule; only those are looked at.
    again, _starts, sizes = shared(questions)
    if len(again):
        group = np.repeat(np.arange(len(sizes)), sizes)
        training = parts[again] == TRAIN
        known, first, place = np.unique(group[training], return_index=True, return_inverse=True)
        answered = answers[again[training]]
        is_again = np.arange(len(answered)) != first[place]
        is_same = answered == answered[first[place]]
        counts["repeated"] = int((is_again & is_same).sum())
        counts["contradictory"] = int((is_again & ~is_same).sum())
        for part in (VALIDATION, TEST):
            held_out = group[parts[again] == part]
            counts[f"{SPLITS[part]}_in_training"] = int(np.isin(held_out, known).sum())
    return [{"code": code, "count": count} for code, count in counts.items() if count]

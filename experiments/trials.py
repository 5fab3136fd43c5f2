"""What a trial is, for those who run it and for those who wait for it; what the parts of a run may cost. Pure."""

import math
from typing import Final

STEPS: Final = 20
VALIDATION_SHARE: Final = 0.15
"""Most of a run's time that answering validation rows, with the validation loss, may take."""
ASKING_SHARE: Final = 0.5
"""In the quality report, both models answer all held-out rows as long as that takes this share of the training, …"""
LEAST_ASKING_S: Final = 60.0
"""… or some seconds; …"""
LEAST_ASKED_ROWS: Final = 128
"""… so many of them are asked in any case, then twice as many, and so on."""
MOST_ASKED_ROWS: Final = 10_000
SCORING_SHARE: Final = 1.0
"""Scoring every allowed value may take so many times as long as asking took, …"""
LEAST_SCORING_S: Final = 20.0
"""… but at least some seconds."""
MOST_CALIBRATION_ROWS: Final = 200
LEAST_CALIBRATION_ROWS: Final = 50
"""Validation rows scored besides those of the report: so many if there is time, and these in any case."""
MOST_WRITTEN_ROWS: Final = 100
"""Of them, where closed fields stand behind open ones: the model first writes their answers, as it does when served."""
MOST_LIKELIHOOD_ROWS: Final = 200
"""Rows whose expected texts are weighed under both models, where answers are free text."""
CHILD_MEMORY_SHARE: Final = 0.9
"""Of a machine's memory, what a trainer on its CPUs may take; one that wants more gets an error it can act on."""


def asking_limit_s(training_s: float) -> float:
    """Return how long both models may answer held-out rows in a quality report, if nobody has named a number."""
    return max(LEAST_ASKING_S, ASKING_SHARE * training_s)


def asked_next(rows: int, asked: int, row_s: float, limit_s: float) -> int:
    """Return how many of all rows are asked next, so many being asked, at the pace of those; none if time is too short.

    By doubling, runs that take about as long are asked the same rows, and can be compared.
    """
    following = rows if limit_s == math.inf else min(rows, max(LEAST_ASKED_ROWS, 2 * asked))
    return following - asked if not asked or following * row_s <= limit_s else 0

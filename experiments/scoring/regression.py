"""Figures of a regression: how far the answered numbers are from the right ones."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class NumberScores:
    """Errors of answered numbers, in the unit of the numbers (`mse` in its square).

    `r2` is the share of the variance that is explained, None if all right numbers are equal. `unreadable` answers are
    no numbers; they count as the mean of the right ones, which earns nothing.
    """

    mse: float
    rmse: float
    mae: float
    r2: float | None
    unreadable: int


def number_of(text: str) -> float | None:
    """Return the number that an answer consists of, None if it is anything else."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def number_scores(expected: Sequence[float], answered: Sequence[float | None]) -> NumberScores:
    """Return the errors of the answers. Raises: ValueError without rows."""
    if not expected:
        raise ValueError("figures need rows")
    mean = sum(expected) / len(expected)
    given = [mean if number is None else number for number in answered]
    errors = [right - number for right, number in zip(expected, given, strict=True)]
    squares = sum(error * error for error in errors)
    spread = sum((right - mean) ** 2 for right in expected)
    mse = squares / len(errors)
    return NumberScores(
        mse=mse,
        rmse=math.sqrt(mse),
        mae=sum(map(abs, errors)) / len(errors),
        r2=1 - squares / spread if spread else None,
        unreadable=sum(number is None for number in answered),
    )

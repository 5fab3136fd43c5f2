"""How far a figure measured on a few rows can be trusted."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

CONFIDENCE: Final = 0.95
RESAMPLES: Final = 2_000
LEAST_RESAMPLES: Final = 400
MOST_DRAWS: Final = 2_000_000
LEAST_FIGURES, MOST_FIGURES, MOST_FIGURE_DRAWS = 200, 1_000, 400_000
# Below this number of rows nothing is called clear.
FEW_ROWS: Final = 20


@dataclass(frozen=True)
class Interval:
    """A mean with the bounds between which it lies with 95% confidence."""

    mean: float
    low: float
    high: float


def bootstrap_interval(values: Sequence[float], *, least: float, most: float, seed: int) -> Interval:
    """Return the mean of the values with its percentile bootstrap interval; the same seed gives the same bounds.

    `least` and `most` are what a value can be. Where all values are equal, resampling would claim certainty; the
    bound is then what so many equal values exclude (for shares the exact binomial bound).
    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13; Clopper and Pearson 1934.
    Raises: ValueError without values.
    """
    if not values:
        raise ValueError("an interval needs values")
    count = len(values)
    mean = sum(values) / count
    if min(values) == max(values):
        return _of_equals(mean, count, least=least, most=most)
    choices = random.Random(seed).choices  # noqa: S311 - not a secret
    resamples = max(LEAST_RESAMPLES, min(RESAMPLES, MOST_DRAWS // count))
    means = sorted(sum(choices(values, k=count)) / count for _ in range(resamples))
    tail = (1 - CONFIDENCE) / 2
    return Interval(mean, _quantile(means, tail), _quantile(means, 1 - tail))


def bootstrap_of_pairs(
    pairs: Sequence[tuple[str, str]], figure: Callable[[Sequence[tuple[str, str]]], float], *, seed: int
) -> Interval:
    """Return a figure in 0..1 of (expected, answered) pairs with its percentile bootstrap interval, rows drawn anew.

    Fewer times than a mean, since a figure of all rows takes longer. Where every draw gives the same, the bound is
    what so many rows exclude, as in `bootstrap_interval`. Raises: ValueError without pairs.
    """
    if not pairs:
        raise ValueError("an interval needs values")
    count, value = len(pairs), figure(pairs)
    choices = random.Random(seed).choices  # noqa: S311 - not a secret
    resamples = max(LEAST_FIGURES, min(MOST_FIGURES, MOST_FIGURE_DRAWS // count))
    found = sorted(figure(choices(pairs, k=count)) for _ in range(resamples))
    if found[0] == found[-1]:
        return _of_equals(value, count, least=0.0, most=1.0)
    tail = (1 - CONFIDENCE) / 2
    # where classes are rare, most draws lack some, and the middle of them lies aside of the figure
    return Interval(value, min(value, _quantile(found, tail)), max(value, _quantile(found, 1 - tail)))


def _of_equals(value: float, count: int, *, least: float, most: float) -> Interval:
    """Return the interval where so many values are equal: what they exclude of what lies between the bounds."""
    doubt = 1 - ((1 - CONFIDENCE) / 2) ** (1 / count)
    return Interval(value, value - (value - least) * doubt, value + (most - value) * doubt)


def share_interval(hits: int, count: int) -> Interval:
    """Return the share of hits with its interval, which is sound for few rows and for none or all of them, too.

    Source: Wilson 1927, Journal of the American Statistical Association 22(158).
    Raises: ValueError without rows.
    """
    if not count:
        raise ValueError("an interval needs values")
    share, z = hits / count, NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    scale = 1 + z * z / count
    middle = (share + z * z / (2 * count)) / scale
    reach = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / scale
    # rounding must not push a share of none or all outside of its own bounds
    return Interval(share, min(share, max(0.0, middle - reach)), max(share, min(1.0, middle + reach)))


def share_difference(hits: int, count: int, other_hits: int, other_count: int) -> Interval:
    """Return a share less that of other rows with its interval, which is sound for few rows and for none or all, too.

    Source: Newcombe 1998, Statistics in Medicine 17, method 10: the differences to the Wilson limits of both.
    Raises: ValueError without rows.
    """
    one, other = share_interval(hits, count), share_interval(other_hits, other_count)
    difference = one.mean - other.mean
    below = math.hypot(one.mean - one.low, other.high - other.mean)
    above = math.hypot(one.high - one.mean, other.mean - other.low)
    return Interval(difference, difference - below, difference + above)


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Return the quantile of sorted values, with linear interpolation."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def clear_code(rows: int, low: float, high: float, *, above: str, below: str) -> str:
    """Return what an interval of a difference says: `above` or `below` zero, too_few_rows or no_clear_difference."""
    if rows < FEW_ROWS:
        return "too_few_rows"
    if low > 0:
        return above
    return below if high < 0 else "no_clear_difference"

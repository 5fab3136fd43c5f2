"""The same figures for parts of the held-out rows: short and long ones, languages, where rows come from."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from experiments.scoring.answers import RowScore, row_score
from experiments.scoring.intervals import Interval, bootstrap_interval, share_interval

# Below this number of rows a slice says next to nothing.
FEW_ROWS: Final = 20
MOST_SLICES: Final = 8
OTHER: Final = "other"
BANDS: Final = ("short", "middle", "long")


@dataclass(frozen=True)
class SliceField:
    """How often one field is right in a slice, among the rows that have it, with its 95% interval."""

    name: str
    rows: int
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True)
class Slice:
    """The tuned model's figures on one part of the rows, each with its 95% interval.

    `reached` is the share of exact answers, or the mean score where answers are free text. `few`: too few rows.
    `others` has what each further subject reaches on the same rows.
    """

    label: str
    rows: int
    reached: float
    low: float
    high: float
    few: bool
    fields: tuple[SliceField, ...]
    others: dict[str, float]


@dataclass(frozen=True)
class Slicing:
    """All rows, cut by one property: length, language or source. `bounds`: see `length_bands`."""

    by: str
    measure: str
    slices: tuple[Slice, ...]
    bounds: tuple[int, int] | None = None


def length_bands(lengths: Sequence[int]) -> tuple[list[str], tuple[int, int]]:
    """Return which third each length belongs to, and the longest length of the first and of the second third.

    Equal lengths are always in one band, so bands may differ in size, and some may be empty.
    Raises: ValueError without rows.
    """
    if not lengths:
        raise ValueError("bands need rows")
    ordered = sorted(lengths)
    bounds = ordered[(len(ordered) - 1) // 3], ordered[2 * (len(ordered) - 1) // 3]
    return [BANDS[(length > bounds[0]) + (length > bounds[1])] for length in lengths], bounds


def slice_by(
    by: str,
    labels: Sequence[str],
    expected: Sequence[str],
    answers: Sequence[str],
    *,
    others: Mapping[str, Sequence[str]] = MappingProxyType({}),
    measure: str = "exact_match",
    order: Sequence[str] = (),
    bounds: tuple[int, int] | None = None,
    seed: int = 0,
) -> Slicing:
    """Return the figures of the rows with each label, in the `order` given, else the most frequent first.

    `others`: the answers of further subjects by name.
    `measure` is exact_match or score. Beyond MOST_SLICES labels the rarest are one slice, OTHER.
    """
    scores = [row_score(wanted, given) for wanted, given in zip(expected, answers, strict=True)]
    counts = Counter(labels)
    ranked = sorted(counts, key=lambda label: (-counts[label], label))
    kept = ranked if len(ranked) <= MOST_SLICES else ranked[: MOST_SLICES - 1]
    shown = [label for label in order if label in kept] + [label for label in kept if label not in order]
    groups: dict[str, list[int]] = {label: [] for label in shown}
    for place, label in enumerate(labels):
        groups.setdefault(label if label in kept else OTHER, []).append(place)
    reached = {
        name: [_reached(row_score(wanted, given), measure) for wanted, given in zip(expected, texts, strict=True)]
        for name, texts in others.items()
    }
    slices = tuple(
        _slice(
            label,
            [scores[place] for place in places],
            {name: sum(values[place] for place in places) / len(places) for name, values in reached.items()},
            measure,
            seed,
        )
        for label, places in groups.items()
    )
    return Slicing(by, measure, slices, bounds)


def _reached(score: RowScore, measure: str) -> float:
    return score.score if measure == "score" else float(score.exact)


def _slice(label: str, scores: Sequence[RowScore], others: dict[str, float], measure: str, seed: int) -> Slice:
    if measure == "score":
        reached = bootstrap_interval([score.score for score in scores], least=0.0, most=1.0, seed=seed)
    else:
        reached = share_interval(sum(score.exact for score in scores), len(scores))
    names = dict.fromkeys(name for score in scores for name in score.fields)
    return Slice(
        label=label,
        rows=len(scores),
        reached=reached.mean,
        low=reached.low,
        high=reached.high,
        few=len(scores) < FEW_ROWS,
        fields=tuple(_field(name, [score.fields for score in scores]) for name in names),
        others=others,
    )


def _field(name: str, right: Sequence[Mapping[str, bool]]) -> SliceField:
    having = [fields[name] for fields in right if name in fields]
    share: Interval = share_interval(sum(having), len(having))
    return SliceField(name, len(having), share.mean, share.low, share.high)

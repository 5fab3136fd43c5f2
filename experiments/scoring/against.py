"""The model beside the simple baseline: is it worth having?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from experiments.scoring.answers import row_score
from experiments.scoring.intervals import bootstrap_interval, clear_code


@dataclass(frozen=True)
class AgainstBaseline:
    """One way of asking the tuned model beside the better one of the simple baselines, on the same rows.

    `measure` is exact_match, or score where answers are free text, of which nobody expects the very words.
    `difference` is way minus baseline with its 95% interval. `code` is beats, does_not_beat, no_clear_difference or
    too_few_rows.
    """

    way: str
    baseline: str
    measure: str
    reached: float
    baseline_reached: float
    difference: float
    low: float
    high: float
    code: str


def against_baseline(
    expected: Sequence[str],
    ways: Mapping[str, Sequence[str]],
    baselines: Mapping[str, Sequence[str]],
    *,
    seed: int,
) -> tuple[AgainstBaseline, ...]:
    """Compare every way of asking with the baseline that is right most often, rows in pairs; nothing without one."""
    measure = measure_of(expected)
    reached = {name: _values(expected, answers, measure) for name, answers in baselines.items()}
    if not reached:
        return ()
    best = max(reached, key=lambda name: sum(reached[name]))
    return tuple(
        _compared(way, best, measure, _values(expected, answers, measure), reached[best], seed)
        for way, answers in ways.items()
    )


def measure_of(expected: Sequence[str]) -> str:
    """Return how answers are counted: exact_match, or score where they are free text."""
    return "score" if is_free_text(expected) else "exact_match"


def is_free_text(expected: Sequence[str]) -> bool:
    """Tell whether most of the expected answers are texts that occur once, so that nobody expects their very words."""
    texts = [text for text in expected if row_score(text, text).valid_json is None]
    return 2 * len(texts) > len(expected) and 2 * len(set(texts)) > len(texts)


def _values(expected: Sequence[str], answers: Sequence[str], measure: str) -> list[float]:
    scores = [row_score(wanted, given) for wanted, given in zip(expected, answers, strict=True)]
    return [score.score if measure == "score" else float(score.exact) for score in scores]


def _compared(
    way: str, baseline: str, measure: str, values: Sequence[float], simple: Sequence[float], seed: int
) -> AgainstBaseline:
    gains = [mine - theirs for mine, theirs in zip(values, simple, strict=True)]
    interval = bootstrap_interval(gains, least=-1.0, most=1.0, seed=seed)
    return AgainstBaseline(
        way=way,
        baseline=baseline,
        measure=measure,
        reached=sum(values) / len(values),
        baseline_reached=sum(simple) / len(simple),
        difference=interval.mean,
        low=interval.low,
        high=interval.high,
        code=clear_code(len(values), interval.low, interval.high, above="beats", below="does_not_beat"),
    )

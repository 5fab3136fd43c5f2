"""Precision, recall and confusion of a closed field."""

from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Final

# What an answer counts as when it is no JSON or lacks the field, and when it is a value that nothing expects.
ABSENT: Final = "—"
OTHER: Final = "…"


@dataclass(frozen=True)
class ClassScores:
    """How well one value of a closed field is found. `support` rows have it, `predicted` answers say it."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int
    predicted: int


@dataclass(frozen=True)
class Confusion:
    """`counts[i][j]` rows expect `labels[i]` and are answered `answers[j]`.

    `answers` are the labels, then OTHER and ABSENT if they occur.
    """

    labels: tuple[str, ...]
    answers: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


def class_scores(expected: Sequence[str], answered: Sequence[str]) -> tuple[ClassScores, ...]:
    """Return the scores of every class that is expected, the most frequent first; 0 where a share has no rows."""
    support, predicted = Counter(expected), Counter(answered)
    hits = Counter(label for label, answer in zip(expected, answered, strict=True) if label == answer)
    return tuple(
        ClassScores(
            label=label,
            precision=hits[label] / predicted[label] if predicted[label] else 0.0,
            recall=hits[label] / support[label],
            f1=2 * hits[label] / (support[label] + predicted[label]),
            support=support[label],
            predicted=predicted[label],
        )
        for label in _by_frequency(support)
    )


def confusion(expected: Sequence[str], answered: Sequence[str]) -> Confusion:
    """Return which expected value is answered by which; values that nothing expects are one column."""
    labels = _by_frequency(Counter(expected))
    known = set(labels)
    pairs = Counter((label, answer_column(answer, known)) for label, answer in zip(expected, answered, strict=True))
    seen = {answer for _, answer in pairs}
    answers = (*labels, *(extra for extra in (OTHER, ABSENT) if extra in seen))
    return Confusion(labels, answers, tuple(tuple(pairs[label, answer] for answer in answers) for label in labels))


def answer_column(answer: str, labels: Container[str]) -> str:
    """Return the column of a confusion in which an answer is counted."""
    return answer if answer in labels or answer == ABSENT else OTHER


def _by_frequency(support: Counter[str]) -> tuple[str, ...]:
    return tuple(sorted(support, key=lambda label: (-support[label], label)))

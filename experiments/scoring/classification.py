"""Figures of a classification: which label is answered, and how well its probabilities are meant."""

import math
from collections.abc import Sequence
from typing import Final

# What scikit-learn takes as the least probability of float64 figures.
LEAST: Final = 2.220446049250313e-16


def macro_f1(expected: Sequence[str], answered: Sequence[str]) -> float:
    """Return the unweighted mean F1 over all labels that are expected or answered, as scikit-learn's macro average."""
    labels = set(expected) | set(answered)
    pairs = list(zip(expected, answered, strict=True))
    scores = []
    for label in labels:
        hits = sum(wanted == given == label for wanted, given in pairs)
        scores.append(2 * hits / (expected.count(label) + answered.count(label)))
    return sum(scores) / len(scores)


def log_loss(expected: Sequence[str], labels: Sequence[str], probabilities: Sequence[Sequence[float]]) -> float:
    """Return the mean negative logarithm of the probability that was given to the right label, in nats.

    A label that the model does not know has the least probability there is.
    """
    place = {label: number for number, label in enumerate(labels)}
    given = [
        row[place[wanted]] if wanted in place else 0.0 for wanted, row in zip(expected, probabilities, strict=True)
    ]
    return -sum(math.log(min(max(one, LEAST), 1 - LEAST)) for one in given) / len(given)


def area_under_curve(
    expected: Sequence[str], labels: Sequence[str], probabilities: Sequence[Sequence[float]]
) -> float | None:
    """Return the mean area under the ROC curve of each label against all others; None if no label can be compared.

    Labels that no row, or every row, expects have no curve and are left out. Equal to scikit-learn's roc_auc_score
    with multi_class="ovr" and average="macro" where every label is expected.
    """
    areas = [
        _area([wanted == label for wanted in expected], [row[number] for row in probabilities])
        for number, label in enumerate(labels)
    ]
    known = [area for area in areas if area is not None]
    return sum(known) / len(known) if known else None


def _area(is_positive: Sequence[bool], scores: Sequence[float]) -> float | None:
    """Return the share of (positive, negative) pairs in which the positive has the higher score; ties count half.

    Source: Mann and Whitney 1947; Hanley and McNeil 1982, Radiology 143(1).
    """
    positives, negatives = sum(is_positive), len(is_positive) - sum(is_positive)
    if not positives or not negatives:
        return None
    order = sorted(range(len(scores)), key=scores.__getitem__)
    rank_sum, start = 0.0, 0
    while start < len(order):
        end = start
        while end < len(order) and scores[order[end]] == scores[order[start]]:
            end += 1
        rank = (start + 1 + end) / 2  # the mean of the ranks that the tied scores share
        rank_sum += rank * sum(is_positive[place] for place in order[start:end])
        start = end
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)

"""Is the model as often right as it says it is sure? Temperatures, expected calibration error, abstention. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from experiments.scoring.classification import area_under_curve, log_loss
from experiments.scoring.intervals import bootstrap_interval

EXACT: Final = "fp32"
"""The base model's weights in evaluations that do not say with which they computed."""
BINS: Final = 10
TARGETS: Final = (0.9, 0.95, 0.98)
_COLDEST, _HOTTEST, _ROUNDS = math.log(0.05), math.log(20.0), 40
_GOLDEN = (math.sqrt(5) - 1) / 2

Judged = tuple[float, bool]
"""How sure the model was of an answer, and whether that was right."""


@dataclass(frozen=True)
class Abstention:
    """What happens if only answers at or above a threshold are taken, and people do the rest.

    The threshold was chosen on the calibration rows (`threshold_for`), None if none was found. `share` of the held-out
    answers is then automated, of which `precision` are right; both with 95% intervals.
    """

    target: float
    threshold: float | None
    share: float
    share_low: float
    share_high: float
    precision: float | None
    precision_low: float | None
    precision_high: float | None


@dataclass(frozen=True)
class FieldCalibration:
    """How far the confidence of a closed field can be trusted: on held-out rows, fitted on other ones.

    `labels`: the values that it was fitted for, None if the evaluator did not say. `ece_by_chance`: what true
    confidences would come to in the mean, on as many rows; None in reports of earlier releases.
    """

    name: str
    temperature: float
    fitted_rows: int
    rows: int
    ece_before: float
    ece_after: float
    abstention: tuple[Abstention, ...]
    labels: tuple[str, ...] | None = None
    ece_by_chance: float | None = None


@dataclass(frozen=True)
class FieldRanking:
    """How well the probabilities of a closed field's values tell the right one, on held-out rows.

    `auc` is the mean area under the ROC curve of each expected value against all others, None if all rows expect the
    same one; `log_loss` in nats, before and after the temperature.
    """

    name: str
    rows: int
    auc: float | None
    log_loss_before: float
    log_loss_after: float


def probabilities(logprobs: Sequence[float], temperature: float) -> list[float]:
    """Return probabilities of log probabilities at a temperature; they sum to 1."""
    scaled = [one / temperature for one in logprobs]
    most = max(scaled)
    weights = [math.exp(one - most) for one in scaled]
    whole = sum(weights)
    return [weight / whole for weight in weights]


def fit_temperature(rows: Sequence[tuple[Sequence[float], int]]) -> float:
    """Return the temperature at which the right values, given by place, are likeliest; 1 without rows.

    Source: Guo et al. 2017, arXiv:1706.04599, section 4.2. Searched by golden section, as the loss has one valley.
    """
    if not rows:
        return 1.0
    low, high = _COLDEST, _HOTTEST
    for _ in range(_ROUNDS):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        if _loss(rows, math.exp(left)) < _loss(rows, math.exp(right)):
            high = right
        else:
            low = left
    return math.exp((low + high) / 2)


def _loss(rows: Sequence[tuple[Sequence[float], int]], temperature: float) -> float:
    return -sum(math.log(max(probabilities(logprobs, temperature)[right], 1e-300)) for logprobs, right in rows)


def expected_calibration_error(judged: Sequence[Judged]) -> float:
    """Return the mean distance of confidence and share of right answers over BINS equal stretches of confidence.

    Source: Naeini et al. 2015, as used by Guo et al. 2017. Raises: ValueError without answers.
    """
    if not judged:
        raise ValueError("nothing was answered")
    gaps = [abs(sum(confidence - right for confidence, right in one)) for one in _bins(judged)]
    return sum(gaps) / len(judged)


def error_by_chance(judged: Sequence[Judged]) -> float:
    """Return the mean of `expected_calibration_error` if every answer were right as likely as its confidence says.

    It is above zero, because in each stretch chance makes a few more or fewer right, and less so on more rows. The
    mean distance of a sum of independent yes or no from its mean is taken to be that of a normal distribution.
    Raises: ValueError without answers.
    """
    if not judged:
        raise ValueError("nothing was answered")
    variances = [sum(confidence * (1 - confidence) for confidence, _right in one) for one in _bins(judged)]
    return sum(math.sqrt(2 * one / math.pi) for one in variances) / len(judged)


def _bins(judged: Sequence[Judged]) -> list[list[Judged]]:
    bins: list[list[Judged]] = [[] for _ in range(BINS)]
    for confidence, right in judged:
        bins[min(BINS - 1, int(confidence * BINS))].append((confidence, right))
    return bins


def abstentions(calibration: Sequence[Judged], heldout: Sequence[Judged], *, seed: int = 0) -> tuple[Abstention, ...]:
    """Return what each target precision costs: thresholds from the calibration rows, shares from the held-out ones."""
    return tuple(_abstention(target, threshold_for(calibration, target), heldout, seed) for target in TARGETS)


def threshold_for(calibration: Sequence[Judged], target: float) -> float | None:
    """Return the lowest confidence from which on enough answers are right and were expected to be; None if none is.

    By count alone, the lowest of many thresholds is one that was lucky, the more so the fewer the rows. The mean
    confidence of the same answers, which the temperature makes true, knows nothing of that luck.
    """
    ordered = sorted(calibration, key=lambda one: -one[0])
    threshold, right, expected = None, 0, 0.0
    for place, (confidence, is_right) in enumerate(ordered, start=1):
        right += is_right
        expected += confidence
        is_last_of_equals = place == len(ordered) or ordered[place][0] < confidence
        if is_last_of_equals and min(right, expected) >= target * place:
            threshold = confidence
    return threshold


def _abstention(target: float, threshold: float | None, heldout: Sequence[Judged], seed: int) -> Abstention:
    taken = [right for confidence, right in heldout if threshold is not None and confidence >= threshold]
    is_taken = [1.0] * len(taken) + [0.0] * (len(heldout) - len(taken))
    share = bootstrap_interval(is_taken, least=0.0, most=1.0, seed=seed)
    if not taken:
        return Abstention(target, threshold, 0.0, 0.0, share.high, None, None, None)
    precision = bootstrap_interval([float(right) for right in taken], least=0.0, most=1.0, seed=seed)
    return Abstention(
        target, threshold, share.mean, share.low, share.high, precision.mean, precision.low, precision.high
    )


def calibrate_field(
    name: str,
    temperature: float,
    calibration: Sequence[Judged],
    raw: Sequence[Judged],
    scaled: Sequence[Judged],
    *,
    labels: Sequence[str] | None = None,
) -> FieldCalibration:
    """Return the figures of one field. `raw` and `scaled`: the held-out answers before and after the temperature."""
    return FieldCalibration(
        name=name,
        temperature=temperature,
        fitted_rows=len(calibration),
        rows=len(scaled),
        ece_before=expected_calibration_error(raw),
        ece_after=expected_calibration_error(scaled),
        abstention=abstentions(calibration, scaled),
        labels=None if labels is None else tuple(labels),
        ece_by_chance=error_by_chance(scaled),
    )


def rank_field(name: str, temperature: float, rows: Sequence[tuple[str, Mapping[str, float]]]) -> FieldRanking:
    """Return the figures of one field's probabilities. `rows`: the right value, and the log probability of each value.

    The area is that of the probabilities at the temperature. Raises: ValueError without rows.
    """
    if not rows:
        raise ValueError("nothing was answered")
    expected, labels = [wanted for wanted, _ in rows], list(rows[0][1])
    raw, scaled = (
        [probabilities([logprobs[label] for label in labels], one) for _, logprobs in rows]
        for one in (1.0, temperature)
    )
    return FieldRanking(
        name=name,
        rows=len(rows),
        auc=area_under_curve(expected, labels, scaled),
        log_loss_before=log_loss(expected, labels, raw),
        log_loss_after=log_loss(expected, labels, scaled),
    )

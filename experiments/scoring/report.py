"""The quality report: the tuned model next to the untuned one, with what one can be sure of."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from datasets_app.fields import Field, infer_fields
from experiments.scoring.against import AgainstBaseline, against_baseline
from experiments.scoring.answers import AnsweredRow, row_score
from experiments.scoring.intervals import bootstrap_interval, clear_code
from experiments.scoring.names import BASELINES, CONSTRAINED, TUNED, WAYS
from experiments.scoring.subjects import SubjectScores, score_subject


@dataclass(frozen=True)
class Difference:
    """Exact match of the tuned minus that of the untuned model on the same rows, with its 95% interval.

    `better_rows` only the tuned model answers exactly, `worse_rows` only the untuned one.
    """

    exact_match: float
    low: float
    high: float
    better_rows: int
    worse_rows: int


@dataclass(frozen=True)
class ComparedField:
    """One field in both models, for the table at the top of the report."""

    name: str
    closed: bool
    tuned_accuracy: float
    untuned_accuracy: float | None
    tuned_f1: float | None
    untuned_f1: float | None
    majority_accuracy: float | None
    others: dict[str, float]
    """Accuracy of every further subject."""


@dataclass(frozen=True)
class Verdict:
    """What the report says in its first sentence; the sentence itself is made where languages are known.

    `code` is one of clearly_better, clearly_worse, no_clear_difference, too_few_rows, not_compared (the untuned
    model was not asked). `weakest_field` is the field that the tuned model answers worst, if there are fields.
    """

    code: str
    rows: int
    tuned: float
    tuned_low: float
    tuned_high: float
    untuned: float | None
    difference: float | None
    difference_low: float | None
    difference_high: float | None
    weakest_field: str | None
    weakest_accuracy: float | None
    against_baseline: tuple[AgainstBaseline, ...]


@dataclass(frozen=True)
class QualityReport:
    """All figures of one evaluation. `kind` is json, text or mixed: what the expected answers are.

    `others` has the figures of simple baselines and of other ways to ask the tuned model, without their confusions.
    """

    rows: int
    kind: str
    fields: tuple[ComparedField, ...]
    tuned: SubjectScores
    untuned: SubjectScores | None
    others: dict[str, SubjectScores]
    difference: Difference | None
    verdict: Verdict

    def to_dict(self) -> dict[str, object]:
        """Return a JSON-ready form: objects, lists, numbers, texts."""
        plain = _plain(asdict(self))
        assert isinstance(plain, dict)
        return plain


def score_answers(
    rows: Iterable[AnsweredRow],
    *,
    fields: Sequence[Field] | None = None,
    schema: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> QualityReport:
    """Return the quality report of the answered rows.

    `fields` says which fields there are and which are closed, for example from the training rows; without it they
    are inferred from the expected answers. Figures for the untuned model, and for each of the others, are given if
    it answered every row.
    Raises: ValueError without rows, or if the tuned model did not answer one of them.
    """
    answered = list(rows)
    tuned_answers = [row.tuned for row in answered if row.tuned is not None]
    untuned_answers = [row.untuned for row in answered if row.untuned is not None]
    if not answered or len(tuned_answers) != len(answered):
        raise ValueError("a quality report needs rows, and the tuned model's answer to each of them")
    expected = [row.expected for row in answered]
    known = infer_fields(expected) if fields is None else fields
    tuned = score_subject(expected, tuned_answers, known, seed=seed, schema=schema, with_f1_intervals=True)
    untuned = difference = None
    if len(untuned_answers) == len(answered):
        untuned = score_subject(expected, untuned_answers, known, seed=seed, schema=schema)
        difference = _difference(expected, tuned_answers, untuned_answers, seed=seed)
    answers = _answers_of_others(answered)
    others = {
        # the gate looks at the classes of answers within the schema, where those are what is served
        name: score_subject(expected, texts, known, seed=seed, schema=schema).brief(with_classes=name == CONSTRAINED)
        for name, texts in answers.items()
    }
    ways = {TUNED: tuned_answers} | {name: texts for name, texts in answers.items() if name in WAYS}
    simple = {name: texts for name, texts in answers.items() if name in BASELINES}
    return QualityReport(
        rows=len(answered),
        kind=_kind(expected),
        fields=_compared(tuned, untuned, others),
        tuned=tuned,
        untuned=untuned,
        others=others,
        difference=difference,
        verdict=_verdict(tuned, untuned, difference, against_baseline(expected, ways, simple, seed=seed)),
    )


def _answers_of_others(rows: Sequence[AnsweredRow]) -> dict[str, list[str]]:
    """Return the answers of every further subject that answered all rows, by its name."""
    names = [name for name in rows[0].others if all(name in row.others for row in rows)]
    return {name: [row.others[name] for row in rows] for name in names}


def _kind(expected: Sequence[str]) -> str:
    are_json = {row_score(text, text).valid_json is not None for text in expected}
    return "mixed" if len(are_json) == 2 else "json" if are_json == {True} else "text"


def _difference(expected: Sequence[str], tuned: Sequence[str], untuned: Sequence[str], *, seed: int) -> Difference:
    # Both models answered the same rows, so the rows are resampled in pairs: much sharper than two separate intervals.
    gains = [
        float(row_score(wanted, after).exact) - float(row_score(wanted, before).exact)
        for wanted, after, before in zip(expected, tuned, untuned, strict=True)
    ]
    interval = bootstrap_interval(gains, least=-1.0, most=1.0, seed=seed)
    return Difference(interval.mean, interval.low, interval.high, gains.count(1.0), gains.count(-1.0))


def _compared(
    tuned: SubjectScores, untuned: SubjectScores | None, others: dict[str, SubjectScores]
) -> tuple[ComparedField, ...]:
    accuracies = {name: {field.name: field.accuracy for field in scores.fields} for name, scores in others.items()}
    before = {field.name: field for field in untuned.fields} if untuned else {}
    return tuple(
        ComparedField(
            name=field.name,
            closed=field.closed,
            tuned_accuracy=field.accuracy,
            untuned_accuracy=before[field.name].accuracy if before else None,
            tuned_f1=field.f1,
            untuned_f1=before[field.name].f1 if before else None,
            majority_accuracy=field.majority_accuracy,
            others={name: known[field.name] for name, known in accuracies.items()},
        )
        for field in tuned.fields
    )


def _verdict(
    tuned: SubjectScores,
    untuned: SubjectScores | None,
    difference: Difference | None,
    against: tuple[AgainstBaseline, ...],
) -> Verdict:
    weakest = min(tuned.fields, key=lambda field: field.accuracy, default=None)
    return Verdict(
        code=_verdict_code(tuned.rows, difference),
        rows=tuned.rows,
        tuned=tuned.exact_match,
        tuned_low=tuned.exact_match_low,
        tuned_high=tuned.exact_match_high,
        untuned=untuned.exact_match if untuned else None,
        difference=difference.exact_match if difference else None,
        difference_low=difference.low if difference else None,
        difference_high=difference.high if difference else None,
        weakest_field=weakest.name if weakest else None,
        weakest_accuracy=weakest.accuracy if weakest else None,
        against_baseline=against,
    )


def _verdict_code(rows: int, difference: Difference | None) -> str:
    if difference is None:
        return "not_compared"
    return clear_code(rows, difference.low, difference.high, above="clearly_better", below="clearly_worse")


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {name: _plain(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(member) for member in value]
    return value

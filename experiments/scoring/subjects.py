"""The figures of one model over all held-out rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from datasets_app.doctor.schema import deviations
from datasets_app.fields import Field, label_of
from experiments.scoring.answers import MISSING, RowScore, parsed_json, row_score
from experiments.scoring.classes import ABSENT, ClassScores, Confusion, class_scores, confusion
from experiments.scoring.intervals import bootstrap_interval, bootstrap_of_pairs, share_interval

MOST_F1_INTERVALS = 20  # of hundreds of fields, resampling each would take minutes


@dataclass(frozen=True)
class FieldScores:
    """How well one field is answered, over the `rows` whose expected answer has it; an absent field is wrong.

    Accuracy has a 95% interval (Wilson's), F1 one by bootstrap where it was asked for. All from `precision` to
    `confusion` are None for an open field. Precision, recall and F1 are means over the expected classes, as
    scikit-learn's macro average with `labels` set to them. `majority_accuracy` is what always answering the most
    frequent value would reach.
    """

    name: str
    closed: bool
    rows: int
    right: int
    accuracy: float
    precision: float | None = None
    recall: float | None = None
    f1: float | None = None
    majority_accuracy: float | None = None
    classes: tuple[ClassScores, ...] | None = None
    confusion: Confusion | None = None
    accuracy_low: float | None = None
    accuracy_high: float | None = None
    f1_low: float | None = None
    f1_high: float | None = None


@dataclass(frozen=True)
class SubjectScores:
    """How well one model answers. Shares lie in 0..1.

    `exact_match` has a 95% bootstrap interval. `json_valid` is None if no answer should be JSON, `token_f1` if
    none should be text. `schema_valid` is the share of answers that follow the schema, None without one. `score` is
    the mean of all row scores.
    """

    rows: int
    exact_rows: int
    exact_match: float
    exact_match_low: float
    exact_match_high: float
    json_valid: float | None
    token_f1: float | None
    score: float
    fields: tuple[FieldScores, ...]
    schema_valid: float | None = None

    def brief(self, *, with_classes: bool) -> "SubjectScores":
        """Return the same figures without what is shown of the tuned model only: confusions, and most classes."""
        fields = tuple(
            replace(field, classes=field.classes if with_classes else None, confusion=None) for field in self.fields
        )
        return replace(self, fields=fields)


def score_subject(
    expected: Sequence[str],
    answers: Sequence[str],
    fields: Sequence[Field],
    *,
    seed: int,
    schema: Mapping[str, Any] | None = None,
    with_f1_intervals: bool = False,
) -> SubjectScores:
    """Return the figures of one model's answers to the same rows. Raises: ValueError without rows.

    `with_f1_intervals`: also how far the first closed fields' macro-F1 can be trusted, which takes some time.
    """
    scores = [row_score(wanted, given) for wanted, given in zip(expected, answers, strict=True)]
    exact = [score.exact for score in scores]
    interval = bootstrap_interval([float(hit) for hit in exact], least=0.0, most=1.0, seed=seed)
    valid = [score.valid_json for score in scores if score.valid_json is not None]
    texts = [score.score for score in scores if score.valid_json is None]
    found: list[FieldScores] = []
    for field in fields:
        with_interval = with_f1_intervals and sum(one.f1 is not None for one in found) < MOST_F1_INTERVALS
        found.append(_score_field(field, expected, answers, scores, f1_seed=seed if with_interval else None))
    return SubjectScores(
        rows=len(scores),
        exact_rows=sum(exact),
        exact_match=interval.mean,
        exact_match_low=interval.low,
        exact_match_high=interval.high,
        json_valid=sum(valid) / len(valid) if valid else None,
        token_f1=sum(texts) / len(texts) if texts else None,
        score=sum(score.score for score in scores) / len(scores),
        fields=tuple(found),
        schema_valid=sum(follows(answer, schema) for answer in answers) / len(answers) if schema else None,
    )


def follows(answer: str, schema: Mapping[str, Any]) -> bool:
    """Tell whether an answer is JSON of a schema; the order of keys is no matter of JSON Schema."""
    value = parsed_json(answer)
    return value is not MISSING and all(one.code == "key_order" for one in deviations(value, schema))


def _score_field(
    field: Field, expected: Sequence[str], answers: Sequence[str], scores: Sequence[RowScore], *, f1_seed: int | None
) -> FieldScores:
    """Return the figures of one field; `f1_seed`: for the interval of a closed field's F1, None for none."""
    having = [place for place, score in enumerate(scores) if field.name in score.fields]
    hits = sum(scores[place].fields[field.name] for place in having)
    if not having:
        return FieldScores(field.name, field.closed, 0, 0, 0.0)
    sure = share_interval(hits, len(having))
    found = FieldScores(
        field.name, field.closed, len(having), hits, sure.mean, accuracy_low=sure.low, accuracy_high=sure.high
    )
    if not field.closed:
        return found
    wanted = [class_of(expected[place], field.name) for place in having]
    given = [class_of(answers[place], field.name) for place in having]
    classes = class_scores(wanted, given)
    if f1_seed is not None:
        f1 = bootstrap_of_pairs(list(zip(wanted, given, strict=True)), _macro_f1, seed=f1_seed)
        found = replace(found, f1_low=f1.low, f1_high=f1.high)
    return replace(
        found,
        precision=sum(one.precision for one in classes) / len(classes),
        recall=sum(one.recall for one in classes) / len(classes),
        f1=_mean_f1(classes),
        majority_accuracy=classes[0].support / len(having),
        classes=classes,
        confusion=confusion(wanted, given),
    )


def _macro_f1(pairs: Sequence[tuple[str, str]]) -> float:
    return _mean_f1(class_scores([wanted for wanted, _ in pairs], [given for _, given in pairs]))


def _mean_f1(classes: Sequence[ClassScores]) -> float:
    return sum(scores.f1 for scores in classes) / len(classes)


def class_of(answer: str, name: str) -> str:
    """Return the value that an answer gives to a field, as a class; ABSENT if it gives none."""
    members = parsed_json(answer)
    value = members.get(name, MISSING) if isinstance(members, dict) else MISSING
    return ABSENT if value is MISSING else label_of(value)

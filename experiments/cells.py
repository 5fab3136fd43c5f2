"""Which held-out rows stand behind a cell of a confusion matrix: the same reading that counted them, row by row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from experiments.models import Evaluation
from experiments.scoring.classes import answer_column
from experiments.scoring.subjects import class_of
from experiments.storable import storable_text

_AT_ONCE = 500


@dataclass(frozen=True)
class Cell:
    """Rows of one expected class that are answered in one column; without `answered`, however they are answered.

    `field` is the key of the JSON answer whose values are the classes, None where the whole answer is the class.
    """

    field: str | None
    expected: str
    answered: str | None


def confusion_of(report: Mapping[str, Any], field: str | None) -> Mapping[str, Any] | None:
    """Return the confusion of a field (of the labels, for None) that a quality report keeps, None without one."""
    if field is None:
        return (report.get("problem") or {}).get("confusion")
    return next((one["confusion"] for one in report["tuned"]["fields"] if one["name"] == field), None)


def answers_in(evaluation: Evaluation, cell: Cell) -> list[int] | None:
    """Return the ids of the answers in a cell, as many as the cell says; None if the report has no such cell.

    Texts are read a few hundred at a time; only those of the expected class are taken apart.
    """
    confusion = confusion_of(evaluation.report, cell.field)
    if confusion is None or cell.expected not in confusion["labels"]:
        return None
    if cell.answered is not None and cell.answered not in confusion["answers"]:
        return None
    labels = set(confusion["labels"])
    texts = evaluation.answers.order_by().values_list("pk", "expected", "tuned").iterator(_AT_ONCE)
    return [
        pk
        for pk, expected, tuned in texts
        if _class(expected, cell.field, is_answer=False) == cell.expected
        and cell.answered in (None, answer_column(_class(tuned, cell.field, is_answer=True), labels))
    ]


def _class(text: str, field: str | None, *, is_answer: bool) -> str:
    if field is not None:
        return storable_text(class_of(text, field))  # as the report keeps it
    return text.strip() if is_answer else text

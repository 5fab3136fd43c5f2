"""Which kind of problem a dataset looks like, from its first rows; a person may choose another one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from datasets_app import store
from datasets_app.fields import json_object
from datasets_app.models import DatasetVersion, Split
from experiments.problem_fit import NUMBER
from experiments.recipes import Reason


def _(text: str) -> str:
    """Mark a text for the translation catalogue; it is translated when it is shown."""
    return text


LOOKED_AT_ROWS: Final = 400
# Labels are short and come back: on average each of them in so many of the rows that are looked at.
LONGEST_LABEL: Final = 60
ROWS_PER_LABEL: Final = 4

USUAL: Final = "chat"
_SENTENCES: Final = {
    "preference": _("All of the first %(rows)d training rows have a better and a worse answer."),
    "pretraining": _("The first %(rows)d training rows are texts without answers."),
    "regression": _("The answers of the first %(rows)d training rows are %(different)d different numbers."),
    "classification": _("The first %(rows)d training rows have only %(different)d different short answers."),
    USUAL: _("The answers of the first %(rows)d training rows are JSON objects or free text."),
}


def propose_problem(version: DatasetVersion | None) -> tuple[str, Reason | None]:
    """Return the problem type to propose and why; the usual one without a reason where no rows can be read.

    Call it in the team's row scope.
    """
    if version is None:
        return USUAL, None
    problem_type, facts = _looked_at(version.rows_path(Split.TRAIN), version.train_rows)
    if not facts["rows"]:
        return USUAL, None
    return problem_type, Reason(("problem_type",), _SENTENCES[problem_type], facts)


@lru_cache(maxsize=256)
def _looked_at(path: Path, _rows: int) -> tuple[str, dict[str, Any]]:
    """Return the problem type and the facts of its sentence; a version's rows never change."""
    try:
        batch = next(store.read_batches(path, ["answer", "rejected"], rows=LOOKED_AT_ROWS), None)
    except (OSError, ValueError, LookupError):
        batch = None
    if batch is None or not len(batch):
        return USUAL, {"rows": 0}
    answers = batch.column("answer").to_pylist()
    has_worse = "rejected" in batch.schema.names and not batch.column("rejected").null_count
    kind = "preference" if has_worse else _kind_of(answers)
    return kind, {"rows": len(answers), "different": len(set(answers))}


def _kind_of(answers: Sequence[str | None]) -> str:
    texts = [(answer or "").strip() for answer in answers]
    different = set(texts)
    if not any(different):
        return "pretraining"
    if len(different) < 2 or any(json_object(text) is not None for text in different):
        return USUAL
    if all(NUMBER.fullmatch(text) for text in different):
        return "regression"
    come_back = ROWS_PER_LABEL * len(different) <= len(texts)
    return "classification" if come_back and all(0 < len(text) <= LONGEST_LABEL for text in different) else USUAL

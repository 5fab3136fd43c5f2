"""Whether a dataset can teach what a run is to learn: asked before the run starts, answered in words."""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Final

from django.utils.translation import gettext as _

from datasets_app import store
from datasets_app.fields import json_object
from datasets_app.models import DatasetVersion, Split
from experiments.hyperparameters import Hyperparameters
from experiments.problem_file import MAX_LABEL_CHARACTERS, MAX_LABELS
from portal.errors import InvalidInput, Unavailable

# What a model can be taught to write, and to be held to: no powers of ten, no thousands separators.
NUMBER: Final = re.compile(r"-?[0-9]{1,12}(\.[0-9]{1,12})?")
# Fewer rows than this per label cannot be told from noise.
MIN_ROWS_PER_LABEL: Final = 2


def require_fit(version: DatasetVersion, chosen: Hyperparameters) -> None:
    """Refuse a dataset version whose rows do not have what the problem type learns from.

    Raises: InvalidInput naming what is missing and what to do, Unavailable if the rows are not on this server.
    """
    try:
        _CHECKS.get(chosen.problem_type, _require_answers)(version)
    except (OSError, ValueError, LookupError):
        raise Unavailable(
            _("The file with these rows is missing on this server. Ask a platform admin to bring it back."),
            code="rows_missing",
        ) from None


def _require_answers(version: DatasetVersion) -> None:
    """Refuse texts without answers; a file has them in all rows or in none."""
    first = next(store.read_batches(version.rows_path(Split.TRAIN), ["answer"], rows=1), None)
    if first is not None and not first.column("answer")[0].as_py():
        raise _misfit(
            _("The rows of %(version)s are texts without answers. Choose the problem type for plain text."), version
        )


def _require_worse_answers(version: DatasetVersion) -> None:
    _require_answers(version)
    for split in Split:
        if version.row_count(split) and _lacks_worse_answers(version, split):
            raise _misfit(
                _(
                    "Preferences need a better and a worse answer in each row, but not all rows of %(version)s have a "
                    "worse one (%(split)s). Import the file with a column of worse answers."
                ),
                version,
                split=split.label,
            )


def _lacks_worse_answers(version: DatasetVersion, split: Split) -> bool:
    for batch in store.read_batches(version.rows_path(split), ["id", "rejected"], rows=8_192):
        if "rejected" not in batch.schema.names or batch.column("rejected").null_count:
            return True
    return False


def _accept(version: DatasetVersion) -> None:
    """Every row is text."""


def _require_labels(version: DatasetVersion) -> None:
    _require_answers(version)
    counts = _answers(version, Split.TRAIN)
    if any(json_object(answer) is not None for answer in counts):
        raise _misfit(
            _(
                "A classification needs labels as answers, but answers of %(version)s are JSON objects. Import the "
                "file with one column of labels as the answer, or choose the problem type for text or JSON."
            ),
            version,
        )
    if len(counts) < 2:
        raise _misfit(
            _("All training rows of %(version)s have the same label. A classification needs two or more."), version
        )
    longest = max(map(len, counts))
    if len(counts) > MAX_LABELS or longest > MAX_LABEL_CHARACTERS:
        raise _misfit(
            _(
                "The answers of %(version)s are no labels: there are %(count)d different ones, the longest with "
                "%(longest)d characters. At most %(most)d labels of %(characters)d characters can be learned. Choose "
                "the problem type for text or JSON."
            ),
            version,
            count=len(counts),
            longest=longest,
            most=MAX_LABELS,
            characters=MAX_LABEL_CHARACTERS,
        )
    if counts.total() < MIN_ROWS_PER_LABEL * len(counts):
        raise _misfit(
            _(
                "The answers of %(version)s are no labels: %(rows)d training rows have %(count)d different ones. "
                "Labels come back; texts that hardly ever repeat are learned with the problem type for text or JSON."
            ),
            version,
            rows=counts.total(),
            count=len(counts),
        )


def _require_numbers(version: DatasetVersion) -> None:
    answers = {split: _answers(version, split) for split in Split}
    for split, counts in answers.items():
        for answer in counts:
            if not NUMBER.fullmatch(answer) or not math.isfinite(float(answer)):
                raise _misfit(
                    _(
                        "A regression needs numbers as answers, such as 17 or -2.5, but not all answers of %(version)s "
                        "are (%(split)s rows). Numbers have up to 12 digits before and after the point, no spaces, "
                        "units or separators of thousands."
                    ),
                    version,
                    split=split.label,
                )
    if len({float(answer) for answer in answers[Split.TRAIN]}) < 2:
        raise _misfit(_("All training rows of %(version)s have the same number: there is nothing to learn."), version)


def _answers(version: DatasetVersion, split: Split) -> Counter[str]:
    """Return how often each answer of a split occurs."""
    counts: Counter[str] = Counter()
    if version.row_count(split):
        for batch in store.read_batches(version.rows_path(split), ["answer"], rows=8_192):
            counts.update(batch.column("answer").to_pylist())
    return counts


def _misfit(sentence: str, version: DatasetVersion, **facts: object) -> InvalidInput:
    return InvalidInput(sentence % {"version": version, **facts}, param="dataset_version", code="dataset_does_not_fit")


_CHECKS: Final = {
    "classification": _require_labels,
    "regression": _require_numbers,
    "preference": _require_worse_answers,
    "pretraining": _accept,
}

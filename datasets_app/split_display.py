"""How the rows of a version are divided, for its page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from django.utils.translation import gettext as _

from datasets_app.answer_counts import WHOLE_ANSWER
from datasets_app.models import Split

# Values of a field that are shown; the rest is counted.
VALUES_SHOWN: Final = 20


@dataclass(frozen=True)
class Share:
    """How many rows of one split have a value, and which share of the split that is (0..100)."""

    count: int
    percent: float


@dataclass(frozen=True)
class FieldCounts:
    """One field: its values, each with its rows in every split."""

    name: str
    values: list[tuple[str, list[Share]]]
    more: int


@dataclass(frozen=True)
class SplitCounts:
    """The splits that have rows, the fields with few values, and how many rows had to stay with others."""

    splits: list[Split]
    fields: list[FieldCounts]
    together: int


def split_counts(report: Mapping[str, Any]) -> SplitCounts | None:
    """Return what a version's report says of its division; None if it says nothing (versions of old)."""
    stored = report.get("split_counts")
    if not stored or not stored["fields"]:
        return None
    rows = stored["rows"]
    splits = [split for split in Split if rows.get(split.value)]
    return SplitCounts(splits, [_field(field, splits, rows) for field in stored["fields"]], stored.get("together", 0))


def _field(field: Mapping[str, Any], splits: list[Split], rows: Mapping[str, int]) -> FieldCounts:
    values = []
    for place, value in enumerate(field["values"][:VALUES_SHOWN]):
        counts = [(field["counts"][split.value][place], rows[split.value]) for split in splits]
        values.append((value, [Share(count, round(100 * count / of, 1)) for count, of in counts]))
    name = _("Answer") if field["name"] == WHOLE_ANSWER else field["name"]
    return FieldCounts(name, values, max(len(field["values"]) - VALUES_SHOWN, 0))

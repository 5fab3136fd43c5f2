"""`{"op": "exclude_found", "report": …, "code": "duplicate"}`: leave out what the doctor found.

`exclude_alike` leaves out what asks the same as the rows that were found, with them or instead of them.
The ids lie beside the report, which belongs to the parent and stays as long as it does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from django.utils.translation import gettext as _

from datasets_app.doctor.report import read_ids
from datasets_app.doctor.table import normalised, question_of, short_hash
from datasets_app.models import Split
from datasets_app.operations.base import ChangeRefused, Context, Door, Operation, PlacedRow, Rows
from datasets_app.rows import CanonicalRow
from datasets_app.store import SPLITS

CODE: Final = re.compile(r"[a-z][a-z_]{0,39}")


@dataclass(frozen=True)
class ExcludeFound(Operation):
    """Leave out all rows of a finding, or those of one split; what an earlier change left out is no matter."""

    name = "exclude_found"
    report: UUID
    code: str
    split: Split | None = None

    def to_dict(self) -> dict[str, object]:
        """Return the report, the finding, and the split if there is one."""
        of_split = {"split": self.split.value} if self.split else {}
        return {"report": str(self.report), "code": self.code, **of_split}

    def apply(self, rows: Rows, context: Context) -> Iterator[PlacedRow]:
        """Yield the other rows."""
        ids = found_ids(context, self.report, self.code)
        return (placed for placed in rows if placed.row.id not in ids or self.split not in (None, placed.split))


@dataclass(frozen=True)
class ExcludeAlike(Operation):
    """Leave out all rows that ask the same as a row of a finding.

    With `keep_found` those found rows of each question stay that stand in its first split: training before the others.
    """

    name = "exclude_alike"
    report: UUID
    code: str
    keep_found: bool

    def to_dict(self) -> dict[str, object]:
        """Return the report, the finding and what becomes of its own rows."""
        return {"report": str(self.report), "code": self.code, "keep_found": self.keep_found}

    def apply(self, rows: Rows, context: Context) -> Iterator[PlacedRow]:
        """Yield the other rows."""
        ids = found_ids(context, self.report, self.code)
        first: dict[int, int] = {}  # by question
        for placed in rows:
            if placed.row.id in ids:
                question, place = _question(placed.row), SPLITS.index(placed.split)
                first[question] = min(place, first.get(question, place))
        for placed in rows:
            kept = first.get(_question(placed.row))
            is_found = self.keep_found and placed.row.id in ids
            if kept is None or (is_found and SPLITS.index(placed.split) == kept):
                yield placed


def found_ids(context: Context, report: UUID, code: str) -> frozenset[int]:
    """Return the ids of the rows of a finding. Raises: ChangeRefused if the report is gone."""
    try:
        return frozenset(read_ids(context.parent_folder / "doctor" / str(report), code).tolist())
    except FileNotFoundError:
        raise ChangeRefused("finding_missing", finding=code) from None


def _question(row: CanonicalRow) -> int:
    return short_hash(normalised(question_of(row)))


def read_found(door: Door) -> ExcludeFound:
    """Return the operation from its JSON form."""
    return ExcludeFound(_report(door), _code(door), door.split() if door.has("split") else None)


def read_alike(door: Door) -> ExcludeAlike:
    """Return the operation from its JSON form."""
    keep = door.value("keep_found") if door.has("keep_found") else False
    if not isinstance(keep, bool):
        raise door.refusal("keep_found", _("'%(name)s' must be true or false.") % {"name": "keep_found"})
    return ExcludeAlike(_report(door), _code(door), keep)


def _report(door: Door) -> UUID:
    try:
        return UUID(door.text("report"))
    except ValueError:
        raise door.refusal("report", _("'%(name)s' must be the id of a report.") % {"name": "report"}) from None


def _code(door: Door) -> str:
    code = door.text("code")
    if not CODE.fullmatch(code):
        raise door.refusal("code", _("'%(name)s' must be the code of a finding.") % {"name": "code"})
    return code

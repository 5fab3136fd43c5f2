"""`{"op": "resplit", "options": {"seed": 2, "test_share": 0.1, …}, "keep_test": true}`: divide all rows anew."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from django.utils.translation import gettext as _

from datasets_app.conversion import parts_of
from datasets_app.importing import RowFacts
from datasets_app.models import Split
from datasets_app.operations.base import ChangeRefused, Context, Door, Operation, PlacedRow, Rows
from datasets_app.options import ImportOptions
from datasets_app.readers import DEFAULT_LIMITS
from datasets_app.rows import CanonicalRow, FlatRow, JsonAnswers
from datasets_app.splits import SPLITS, SplitRefused


@dataclass(frozen=True)
class Resplit(Operation):
    """Divide all rows anew; with `keep_test` the test rows stay, and only what would leak joins them."""

    name = "resplit"
    options: ImportOptions
    keep_test: bool

    def to_dict(self) -> dict[str, object]:
        """Return the options and what becomes of the test rows."""
        options = {name: value for name, value in self.options.to_dict().items() if name != "skip_faulty"}
        return {"options": options, "keep_test": self.keep_test}

    def apply(self, rows: Rows, context: Context) -> Iterator[PlacedRow]:
        """Yield all rows, each in its new split. Raises: ChangeRefused."""
        known, ids, now = RowFacts(JsonAnswers(DEFAULT_LIMITS.max_json_depth)), [], []
        for placed in rows:
            known.add(_flat(placed.row))
            ids.append(placed.row.id)
            now.append(SPLITS.index(placed.split))
        try:
            division = parts_of(
                known,
                replace(self.options.plan, keep_test=self.keep_test),
                lambda: (placed.row for placed in rows),
                ids=np.array(ids, dtype=np.int64),
                now=np.array(now, dtype=np.int8),
            )
        except SplitRefused as error:
            raise ChangeRefused(error.code) from None
        names = [Split(name) for name in SPLITS]
        for placed, part in zip(rows, division.parts.tolist(), strict=True):
            yield placed._replace(split=names[part])


def _flat(row: CanonicalRow) -> FlatRow:
    *before, asked, answered = row.messages
    system = before.pop(0)["content"] if before and before[0]["role"] == "system" else None
    texts = (asked["content"], answered["content"], before or None)
    return FlatRow(row.row, system, *texts, b"", row.group, row.at, rejected=row.rejected)


def read(door: Door) -> Resplit:
    """Return the operation from its JSON form."""
    given = door.value("options") if door.has("options") else {}
    if not isinstance(given, dict):
        raise door.refusal("options", _("'%(name)s' must be an object.") % {"name": "options"})
    keep_test = door.value("keep_test") if door.has("keep_test") else True
    if not isinstance(keep_test, bool):
        raise door.refusal("keep_test", _("'%(name)s' must be true or false.") % {"name": "keep_test"})
    return Resplit(ImportOptions.from_dict(given), keep_test)

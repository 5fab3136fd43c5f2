"""`{"op": "exclude", "ids": [3, 5]}`: leave rows out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from datasets_app.operations.base import Context, Door, Operation, PlacedRow, Rows, require_found


@dataclass(frozen=True)
class Exclude(Operation):
    """Leave rows out."""

    name = "exclude"
    ids: frozenset[int]

    def to_dict(self) -> dict[str, object]:
        """Return the numbers of the rows."""
        return {"ids": sorted(self.ids)}

    def apply(self, rows: Rows, context: Context) -> Iterator[PlacedRow]:
        """Yield the other rows."""
        found = set()
        for placed in rows:
            if placed.row.id in self.ids:
                found.add(placed.row.id)
            else:
                yield placed
        require_found(self.ids, found)


def read(door: Door) -> Exclude:
    """Return the operation from its JSON form."""
    return Exclude(door.ids())

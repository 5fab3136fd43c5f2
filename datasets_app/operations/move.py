"""`{"op": "move", "ids": [3, 5], "split": "test"}`: put rows into another split."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from datasets_app.models import Split
from datasets_app.operations.base import Context, Door, Operation, PlacedRow, Rows, require_found


@dataclass(frozen=True)
class Move(Operation):
    """Put rows into another split."""

    name = "move"
    ids: frozenset[int]
    split: Split

    def to_dict(self) -> dict[str, object]:
        """Return the numbers of the rows, and where they go."""
        return {"ids": sorted(self.ids), "split": self.split.value}

    def apply(self, rows: Rows, context: Context) -> Iterator[PlacedRow]:
        """Yield all rows, these in their new split."""
        found = set()
        for placed in rows:
            if placed.row.id in self.ids:
                found.add(placed.row.id)
                placed = placed._replace(split=self.split)
            yield placed
        require_found(self.ids, found)


def read(door: Door) -> Move:
    """Return the operation from its JSON form."""
    return Move(door.ids(), door.split())

"""What can be done to the rows of a version to make the next one: one module for each operation.

An operation is a JSON object, `{"op": "exclude", "ids": [3, 5]}`. `read_changes` checks a list of them at the door;
`apply_all` lets the rows of the parent stream through them, in the order of the list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Final

from django.utils.translation import gettext as _

from datasets_app.operations import add, exclude, found, move, personal, replace, resplit, values
from datasets_app.operations.base import ChangeRefused, Context, Door, Operation, PlacedRow, Rows, Stage
from portal.errors import InvalidInput

__all__ = ["ChangeRefused", "Context", "Operation", "PlacedRow", "Rows", "apply_all", "read_changes", "to_json"]

MAX_CHANGES: Final = 10_000
MAX_STAGES: Final = 50
# Each reads one kind of operation from its JSON. Raises: InvalidInput.
READERS: Final[Mapping[str, Callable[[Door], Operation]]] = {
    "exclude": exclude.read,
    "replace": replace.read,
    "add": add.read,
    "move": move.read,
    "resplit": resplit.read,
    "exclude_found": found.read_found,
    "exclude_alike": found.read_alike,
    "rename_value": values.read_rename,
    "set_values": values.read_set,
    "order_keys": values.read_order,
    "mask_pii": personal.read_mask,
    "drop_pii": personal.read_drop,
}


def read_changes(changes: object) -> list[Operation]:
    """Return the operations of a JSON list. Raises: InvalidInput, naming the place of what does not fit."""
    if not isinstance(changes, list) or not changes:
        raise InvalidInput(_("Send a list with at least one change."), param="changes")
    if len(changes) > MAX_CHANGES:
        raise InvalidInput(
            _("Send at most %(limit)d changes at once.") % {"limit": MAX_CHANGES}, param="changes", code="too_many"
        )
    operations = [_read(Door(f"changes.{index}", given)) for index, given in enumerate(changes)]
    # Each stage is a walk through all rows.
    if len(_stages(operations)) > MAX_STAGES:
        raise InvalidInput(
            _("Put changes of one kind together: these make more than %(limit)d walks through the rows.")
            % {"limit": MAX_STAGES},
            param="changes",
            code="too_many",
        )
    return operations


def _read(door: Door) -> Operation:
    name = door.text("op")
    if name not in READERS:
        raise InvalidInput(
            _("There is no change named '%(name)s'. Known are: %(known)s.")
            % {"name": str(name)[:40], "known": ", ".join(READERS)},
            param=f"{door.place}.op",
            code="unknown_operation",
        )
    operation = READERS[name](door)
    door.refuse_unknown()
    return operation


def to_json(operations: Sequence[Operation]) -> list[dict[str, object]]:
    """Return the form in which a version keeps its changes."""
    return [{"op": operation.name, **operation.to_dict()} for operation in operations]


def apply_all(rows: Rows, operations: Sequence[Operation], context: Context) -> Rows:
    """Return the rows as they are after all operations; nothing is read before they are walked through."""
    for stage in _stages(operations):
        rows = _Applied(rows, stage, context)
    return rows


def _stages(operations: Iterable[Operation]) -> list[Stage]:
    alike = (list(group) for _kind, group in groupby(operations, key=type))
    return [stage for group in alike for stage in type(group[0]).stages(group)]


class _Applied(Rows):
    """Rows behind one stage; every walk through them begins anew, so a stage may walk more than once."""

    def __init__(self, before: Rows, stage: Stage, context: Context) -> None:
        self._before = before
        self._stage = stage
        self._context = context

    def __iter__(self) -> Iterator[PlacedRow]:
        return self._stage(self._before, self._context)

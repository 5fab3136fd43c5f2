"""`{"op": "mask_pii", "kinds": ["email"]}`: write pseudonyms for personal data; `drop_pii` leaves their rows out.

A value gets the same pseudonym in all rows of the version that is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from django.utils.translation import gettext as _

from datasets_app.doctor import pii
from datasets_app.operations.base import Context, Door, Operation, PlacedRow, Rows


@dataclass(frozen=True)
class MaskPersonalData(Operation):
    """Write pseudonyms such as [EMAIL_1] for personal data of some kinds."""

    name = "mask_pii"
    kinds: frozenset[str]

    def to_dict(self) -> dict[str, object]:
        """Return the kinds."""
        return {"kinds": sorted(self.kinds)}

    def apply(self, rows: Rows, context: Context) -> Iterator[PlacedRow]:
        """Yield all rows; names are given in the order of the rows, so every walk gives the same."""
        names = pii.Pseudonyms()
        return (placed._replace(row=pii.mask(placed.row, self.kinds, names)) for placed in rows)


@dataclass(frozen=True)
class DropPersonalData(Operation):
    """Leave out rows that hold personal data of some kinds."""

    name = "drop_pii"
    kinds: frozenset[str]

    def to_dict(self) -> dict[str, object]:
        """Return the kinds."""
        return {"kinds": sorted(self.kinds)}

    def apply(self, rows: Rows, context: Context) -> Iterator[PlacedRow]:
        """Yield the other rows."""
        return (placed for placed in rows if not pii.holds(placed.row, self.kinds))


def read_mask(door: Door) -> MaskPersonalData:
    """Return the operation from its JSON form."""
    return MaskPersonalData(_kinds(door))


def read_drop(door: Door) -> DropPersonalData:
    """Return the operation from its JSON form."""
    return DropPersonalData(_kinds(door))


def _kinds(door: Door) -> frozenset[str]:
    kinds = door.value("kinds")
    if not isinstance(kinds, list) or not kinds or not all(isinstance(kind, str) for kind in kinds):
        raise door.refusal("kinds", _("'%(name)s' must be a list of texts.") % {"name": "kinds"})
    if unknown := sorted(set(kinds) - set(pii.KINDS)):
        raise door.refusal(
            "kinds",
            _("There is no kind of personal data '%(kind)s'. Known are: %(known)s.")
            % {"kind": unknown[0][:40], "known": ", ".join(pii.KINDS)},
        )
    return frozenset(kinds)

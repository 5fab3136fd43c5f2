"""Where a run finds room: free slots of one node, each with a GPU of its own where there are GPUs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from experiments.models import Run
from portal.errors import InvalidInput
from portal.models import Node


@dataclass
class FreeSlots:
    """The free slots of a node that takes new runs."""

    node: Node
    slots: list[int]

    def for_run(self, gpus: int) -> list[int] | None:
        """Return the slots for a run on so many GPUs, the lowest of each GPU; None if there is no room for it."""
        if gpus == 1:
            return self.slots[:1] or None
        found: dict[int, int] = {}
        for slot in self.slots:
            found.setdefault(self.node.device_of(slot), slot)
        return list(found.values())[:gpus] if gpus <= min(len(found), self.node.most_gpus_of_a_run) else None


def free_slots() -> list[FreeSlots]:
    """Return the free slots of all open nodes. Call it in a scope that sees the runs of all teams."""
    taken: defaultdict[int, set[int]] = defaultdict(set)
    active = Run.unscoped.filter(status__in=Run.ACTIVE, node__isnull=False)
    for node_id, slot, more in active.values_list("node_id", "slot", "more_slots"):
        taken[node_id] |= {slot or 0, *more}
    return [
        FreeSlots(node, [slot for slot in range(node.slots) if slot not in taken[node.pk]])
        for node in Node.objects.open()
    ]


def find_place(free: Iterable[FreeSlots], gpus: int) -> tuple[FreeSlots, list[int]] | None:
    """Return where a run on so many GPUs can start now: on the node with most free slots."""
    fitting = [(each, slots) for each in free if (slots := each.for_run(gpus)) is not None]
    return max(fitting, key=lambda found: len(found[0].slots), default=None)


def keep_free(free: list[FreeSlots], gpus: int) -> None:
    """Take the node on which a run on so many GPUs will soonest have room out of those that others may start on."""
    large_enough = [each for each in free if each.node.most_gpus_of_a_run >= gpus]
    if large_enough:
        free.remove(max(large_enough, key=lambda each: len(each.slots)))


def require_gpus(gpus: int) -> None:
    """Refuse a run that no node could ever start. Raises: InvalidInput."""
    most = max((node.most_gpus_of_a_run for node in Node.objects.all()), default=1)
    if gpus <= max(1, most):
        return
    if most <= 1:
        message = _("No node lets one run have several GPUs. Choose 1.")
    else:
        message = ngettext(
            "No node gives one run more than %(most)d GPU. Choose at most so many.",
            "No node gives one run more than %(most)d GPUs. Choose at most so many.",
            most,
        ) % {"most": most}
    raise InvalidInput(message, param="gpus", code="bad_settings")

"""What platform admins decide about nodes. What a node's agent says about itself is in `deployments.lifecycle`."""

from __future__ import annotations

from django.db import transaction
from django.utils.translation import gettext as _

from portal import audit
from portal.actors import Actor
from portal.errors import IllegalTransition, InvalidInput
from portal.models import Node
from portal.queue import enqueue_on_commit

MOST_SLOTS = 64


@transaction.atomic
def set_draining(*, node: Node, is_draining: bool, actor: Actor) -> None:
    """Let a node finish what it does and take nothing new, or take work again. A second call changes nothing."""
    if not Node.objects.filter(pk=node.pk).exclude(is_draining=is_draining).update(is_draining=is_draining):
        return
    node.refresh_from_db()
    audit.record(None, actor, "node.drained" if is_draining else "node.reopened", node)
    enqueue_on_commit("experiments.tasks.dispatch")


@transaction.atomic
def set_slots(*, node: Node, slots: int, actor: Actor) -> None:
    """Change how many runs a node works on at the same time; runs that work go on. It outlasts a restart of the agent.

    Raises: InvalidInput for a number out of range.
    """
    if not 0 <= slots <= MOST_SLOTS:
        raise InvalidInput(_("Choose a number from 0 to %(most)d.") % {"most": MOST_SLOTS}, param="slots")
    if node.slots == slots and node.slots_are_set:
        return
    before, node.slots, node.slots_are_set = node.slots, slots, True
    node.save(update_fields=["slots", "slots_are_set"])
    audit.record(None, actor, "node.slots_changed", node, slots=slots, before=before)
    enqueue_on_commit("experiments.tasks.dispatch")


@transaction.atomic
def remove_node(*, node: Node, actor: Actor) -> None:
    """Forget a node that is gone; adapters that were loaded there move to others. Call it in the scope of all teams.

    Raises: IllegalTransition while its agent is alive or runs are assigned to it.
    """
    locked = Node.objects.select_for_update().get(pk=node.pk)
    if locked.is_live:
        raise IllegalTransition(_("The node's agent is alive. Stop it first."), code="node_is_live")
    # Through the related manager: the rooms above are not imported here.
    if locked.runs.filter(status__in=["assigned", "running"]).exists():
        raise IllegalTransition(
            _("Runs are still assigned to this node. They go back to the queue when their leases run out."),
            code="node_has_runs",
        )
    audit.record(None, actor, "node.removed", locked)
    locked.delete()

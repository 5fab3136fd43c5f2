"""Where adapters are loaded. A placement is a wish: services make and renew it, the node's agent fulfils it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.db.models import Count, Exists, F, OuterRef, Q, Sum
from django.db.models.functions import Coalesce
from django.utils import timezone
from django.utils.translation import gettext as _

from deployments.models import Engine, InferenceRecord, Placement
from experiments.models import Adapter
from portal.errors import Unavailable
from portal.models import BaseModel, Node
from portal.rls import all_teams

# Answers that are being written when a version is replaced, and a quick roll back, still find the adapter loaded.
DRAIN = timedelta(minutes=2)
# A base model in memory beside its weights: caches, and what a step needs.
OVERHEAD = 1.3
# Adapters are small beside their base model: so many of them go where it is loaded before it is loaded elsewhere.
COST_OF_A_BASE_MODEL = 4
# A request a second keeps a node about as busy as so many adapters that nobody asks.
ADAPTERS_PER_REQUEST_RATE = 2
# Requests are counted over this time, and no more of the newest than this: the question stays cheap in any ledger.
BUSY_TIME = timedelta(minutes=5)
MOST_RECENT = 5_000
# Nodes that have not told their memory, and small ones, count as this large.
USUAL_MEMORY_BYTES = 8 * 2**30


def ensure_placement(*, adapter: Adapter, wanted_until: datetime | None = None) -> Placement:
    """Return the placement of an adapter, made on the best node if there is none; a failed one is tried again.

    `wanted_until` keeps it loaded until then; without it the placement lives as long as a deployment needs it.
    Call it in the row scope of the adapter's team. Raises: Unavailable if no node has ever registered.
    """
    placement = _existing(adapter)
    if placement is None:
        node = choose_node(adapter.base_model)
        placement, _made = adapter.placements.get_or_create(node=node, defaults={"team": adapter.team})
    changed = []
    if placement.status == Placement.Status.FAILED:
        placement.status, placement.error = Placement.Status.PENDING, ""
        changed += ["status", "error"]
    if wanted_until is not None and (placement.wanted_until is None or placement.wanted_until < wanted_until):
        placement.wanted_until = wanted_until
        changed.append("wanted_until")
    if changed:
        placement.save(update_fields=changed)
    return placement


def drain(adapter: Adapter) -> None:
    """Keep an adapter loaded for a moment after the last deployment let go of it."""
    until = timezone.now() + DRAIN
    short = Q(wanted_until=None) | Q(wanted_until__lt=until)
    adapter.placements.filter(short).update(wanted_until=until)


def choose_node(base_model: BaseModel) -> Node:
    """Return the live node where an adapter of this base model is placed best.

    In this order: its engine for this base model does not fail; the base model is there already or fits into memory,
    beside the adapters that are there; least adapters and recent requests in proportion to memory, where starting the
    base model anew counts as some adapters more.
    Without a live node that takes new work it is the one heard from last: its agent loads the adapter when it is back.
    Raises: Unavailable if there is no node at all.
    """
    engines = Engine.objects.filter(node=OuterRef("pk"), base_model=base_model)
    with all_teams("the placements of all teams decide where there is room"):
        nodes = list(
            Node.objects.open()
            .annotate(
                fails=Exists(engines.filter(status=Engine.Status.FAILED)),
                serves=Exists(engines.exclude(status=Engine.Status.FAILED)),
                load=Count("placements"),
                adapter_bytes=Coalesce(Sum("placements__adapter__size_bytes"), 0),
            )
            .order_by("name")
        )
        held, rates = _bytes_of_base_models([node.pk for node in nodes]), _request_rates()
        node = min(
            nodes,
            key=lambda node: _rank(node, base_model, held.get(node.pk, 0), rates.get(node.pk, 0.0)),
            default=None,
        )
        if node is None:
            node = Node.objects.order_by(F("heartbeat_at").desc(nulls_last=True), "name").first()
    if node is None:
        raise Unavailable(
            _("No node can load models yet. Ask a platform admin to start one."), code="no_node", retry_after_s=30
        )
    return node


def _rank(node: Any, base_model: BaseModel, held_bytes: int, rate: float) -> tuple[bool, bool, float, str]:
    """Return what nodes are compared by, the best first.

    `held_bytes`: of base models that are there; `rate`: requests a second to its adapters.
    """
    needed = 0 if node.serves else base_model.size_bytes * OVERHEAD
    room = node.memory_of_a_gpu  # all engines of a node compute on its first GPU
    is_tight = room > 0 and room < held_bytes + node.adapter_bytes + needed
    load = node.load + rate * ADAPTERS_PER_REQUEST_RATE + (0 if node.serves else COST_OF_A_BASE_MODEL)
    return node.fails, is_tight, load / max(room, USUAL_MEMORY_BYTES), node.name


def _bytes_of_base_models(nodes: list[Any]) -> dict[Any, int]:
    """Return how much memory the engines of nodes take for their base models, each counted once."""
    rows = Engine.objects.filter(node__in=nodes).exclude(status=Engine.Status.FAILED).order_by()
    sums = rows.values_list("node").annotate(total=Sum("base_model__size_bytes"))
    return {node: int(total * OVERHEAD) for node, total in sums}


def _request_rates() -> dict[Any, float]:
    """Return by node how many requests a second its adapters had of late; one that is on two nodes counts for both."""
    newest = InferenceRecord.unscoped.order_by("-pk").values("pk")[:MOST_RECENT]
    recent = InferenceRecord.unscoped.filter(pk__in=newest, at__gte=timezone.now() - BUSY_TIME).order_by()
    counts = recent.values_list("version__adapter__placements__node").annotate(count=Count("pk"))
    return {node: count / BUSY_TIME.total_seconds() for node, count in counts if node is not None}


def _existing(adapter: Adapter) -> Placement | None:
    """Return the adapter's placement that serves best: on a node that was heard from last, loaded before loading."""
    # Locked, so that an agent that is about to forget it looks again after this transaction.
    placements = adapter.placements.select_for_update(of=("self",)).select_related("node")
    ready_first = sorted(placements, key=lambda placement: placement.status != Placement.Status.READY)
    return max(ready_first, key=lambda placement: placement.node.is_live, default=None)

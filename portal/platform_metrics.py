"""What the operator's monitoring reads of nodes, queues and use."""

from __future__ import annotations

from collections.abc import Iterable

from django.db.models import Count, Sum
from django.utils import timezone
from django_q.models import OrmQ

from portal.models import Node, UsageDay
from portal.prometheus import Family, counter, gauge


def platform_metrics() -> Iterable[Family]:
    """Yield the figures. Call it in the row scope of all teams."""
    nodes = list(Node.objects.all())
    yield gauge(
        "tuneport_node_up",
        "Whether the node's agent was heard from lately.",
        {(node.name,): int(node.is_live) for node in nodes},
        ["node"],
    )
    yield gauge("tuneport_node_slots", "Runs at the same time.", {(node.name,): node.slots for node in nodes}, ["node"])
    waiting = OrmQ.objects.order_by().values_list("key").annotate(Count("pk"))
    yield gauge(
        "tuneport_queue_messages",
        "Messages of the queue that wait or are worked on, by cluster.",
        {(key,): count for key, count in waiting},
        ["cluster"],
    )
    used = UsageDay.unscoped.filter(day=timezone.now().date()).aggregate(total=Sum("gpu_seconds"))
    yield counter(
        "tuneport_gpu_seconds_total",
        "Time of nodes that ended runs are charged for, since midnight UTC, when it begins again.",
        used["total"] or 0,
    )

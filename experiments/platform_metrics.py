"""What the operator's monitoring reads of runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from statistics import fmean

from django.db.models import Count, Min, OuterRef, Subquery
from django.utils import timezone

from experiments.models import MetricPoint, Run
from portal.prometheus import Family, gauge

_PAUSED = "paused"


def run_metrics() -> Iterable[Family]:
    """Yield the figures. Call it in the row scope of all teams."""
    counts = {(status,): 0 for status in (*Run.Status.values, _PAUSED)}
    found = Run.unscoped.order_by().values_list("status", "is_held").annotate(Count("pk"))
    for status, is_held, count in found:
        counts[(_PAUSED if is_held and status == Run.Status.QUEUED else status,)] += count
    yield gauge("tuneport_runs", "Runs of all teams by state.", counts, ["status"])
    oldest = Run.unscoped.filter(status=Run.Status.QUEUED, is_held=False).aggregate(at=Min("queued_at"))["at"]
    waits_s = (timezone.now() - oldest).total_seconds() if oldest else 0
    yield gauge("tuneport_run_longest_wait_seconds", "How long the oldest waiting run waits.", round(waits_s, 1))
    yield from _machines()


def _machines() -> Iterable[Family]:
    """Yield how busy each node is, by its slots and by what its running trainings measured last."""
    latest = MetricPoint.unscoped.filter(run=OuterRef("pk")).order_by("-step").values("values")[:1]
    active = Run.unscoped.filter(status__in=Run.ACTIVE, node__isnull=False)
    slots: defaultdict[tuple[str, ...], int] = defaultdict(int)
    shares: defaultdict[tuple[str, ...], list[float]] = defaultdict(list)
    for name, gpus, values in active.values_list("node__name", "gpus").annotate(latest=Subquery(latest)):
        slots[(name,)] += gpus
        for device in ("gpu", "cpu"):
            share = (values or {}).get(f"{device}_share")
            if isinstance(share, int | float):
                shares[name, device].append(share)
    yield gauge("tuneport_node_slots_busy", "Slots that runs hold.", slots, ["node"])
    yield gauge(
        "tuneport_node_device_busy_ratio",
        "How busy the node's processors are, 0 to 1, as its running trainings measured last.",
        {key: round(fmean(found), 4) for key, found in shares.items()},
        ["node", "device"],
    )

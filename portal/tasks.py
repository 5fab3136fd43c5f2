"""What the queue calls by the clock for quotas and usage: short, repeatable."""

from __future__ import annotations

from portal import alerts, quotas, usage


def sweep_quotas() -> int:
    """Give back what processes that died had set aside; return how many reservations that were."""
    return quotas.sweep()


def watch_usage() -> int:
    """Measure what teams store, and tell those that reach a limit; return how many were told."""
    usage.measure_storage()
    return alerts.check_all()

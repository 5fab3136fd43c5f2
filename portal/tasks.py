"""What the queue calls by the clock for quotas, usage and what is over: short, repeatable."""

from __future__ import annotations

from importlib import import_module

from django.conf import settings
from django.db import connection

from portal import alerts, quotas, usage


def sweep_quotas() -> int:
    """Give back what processes that died had set aside; return how many reservations that were."""
    return quotas.sweep()


def watch_usage() -> int:
    """Measure what teams store, and tell those that reach a limit; return how many were told."""
    usage.measure_storage()
    return alerts.check_all()


def prune() -> int:
    """Delete sessions and cached counts whose time is over; return how many counts."""
    import_module(settings.SESSION_ENGINE).SessionStore.clear_expired()
    table = connection.ops.quote_name(str(settings.CACHES["default"]["LOCATION"]))
    with connection.cursor() as cursor:
        cursor.execute(f"DELETE FROM {table} WHERE expires < now()")  # noqa: S608 -- our own table's name
        return int(cursor.rowcount)

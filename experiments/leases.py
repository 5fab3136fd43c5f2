"""Leases: the right to work on a run for a limited time. All times are the database's, since nodes' clocks differ."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db.models import DateTimeField, ExpressionWrapper, F, FloatField, QuerySet
from django.db.models.functions import Cast, Extract, Greatest, Now

from experiments.models import Run

# What a run looks like to which nobody holds a lease any more.
RELEASED: dict[str, Any] = {"lease_token": None, "lease_until": None, "phase": "", "eta_s": None}
# And one that is nowhere.
PLACELESS: dict[str, Any] = {"node": None, "slot": None, "more_slots": []}


@dataclass(frozen=True)
class Lease:
    """The right to work on a run, proven by a token that is made anew each time the run is given to a node."""

    run_id: uuid.UUID
    token: uuid.UUID


class LeaseLost(Exception):
    """The run was given to somebody else or has ended: whoever hears this must stop at once and write nothing."""


def with_token(lease: Lease) -> QuerySet[Run]:
    """Return the run, if this lease is its present one."""
    return Run.unscoped.filter(pk=lease.run_id, lease_token=lease.token)


def held_by(lease: Lease) -> QuerySet[Run]:
    """Return the run, if it is running under this lease."""
    return with_token(lease).filter(status=Run.Status.RUNNING)


def change(lease: Lease, **fields: Any) -> None:
    """Update the run if it is running under this lease. Raises: LeaseLost."""
    if not held_by(lease).update(**fields):
        raise LeaseLost(f"run {lease.run_id}")


def stop_requested(lease: Lease) -> bool:
    """Tell whether somebody asked the run to stop."""
    return held_by(lease).filter(cancel_requested_at__isnull=False).exists()


def renewed() -> Any:
    """Return the expression for a lease that begins now."""
    return ExpressionWrapper(Now() + timedelta(seconds=settings.LEASE_SECONDS), output_field=DateTimeField())


def charged() -> Any:
    """Return the expression for GPU seconds with the time since the last renewal, which the lease's end tells.

    Each GPU of a run counts, from its claim to its end. Charged at every renewal, so that a lost node costs a team only
    what was renewed, and nothing is charged twice.
    """
    renewed_at = ExpressionWrapper(
        F("lease_until") - timedelta(seconds=settings.LEASE_SECONDS), output_field=DateTimeField()
    )
    since = Cast(Extract(Now() - renewed_at, "epoch"), FloatField())
    return F("gpu_seconds") + Cast(F("gpus"), FloatField()) * Greatest(since, 0.0, output_field=FloatField())

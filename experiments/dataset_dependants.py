"""What this room hangs below dataset versions: runs, and the adapters that they left."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from uuid import UUID

from datasets_app.dependants import Dependant
from portal.models import Team


def runs_below(team: Team, version_ids: Collection[UUID]) -> Iterator[Dependant]:
    """Yield the runs that learned from the versions, the newest first, each with its adapter."""
    runs = team.runs.filter(dataset_version__in=version_ids).select_related("experiment", "adapter")
    for run in runs.order_by("-queued_at"):
        key, version_id = f"run:{run.pk}", run.dataset_version_id
        yield Dependant(version_id, key, None, "run", str(run), run.status, "experiments:run", run.pk, holds=True)
        adapter = getattr(run, "adapter", None)
        if adapter is not None:
            yield Dependant(
                version_id, f"adapter:{adapter.pk}", key, "adapter", str(run), "", "experiments:run", run.pk
            )

"""What this room hangs below dataset versions: deployments that answer with what was learned from them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from uuid import UUID

from datasets_app.dependants import Dependant
from portal.models import Team


def deployments_below(team: Team, version_ids: Collection[UUID]) -> Iterator[Dependant]:
    """Yield the deployments whose live version answers with an adapter that learned from the versions."""
    live = team.deployments.filter(live_version__adapter__run__dataset_version__in=version_ids)
    for deployment in live.select_related("live_version__adapter__run").order_by("name"):
        version = deployment.live_version
        if version is None:  # promoted away since
            continue
        adapter = version.adapter
        yield Dependant(
            version_id=adapter.run.dataset_version_id,
            key=f"deployment:{deployment.pk}",
            above=f"adapter:{adapter.pk}",
            kind="deployment",
            label=deployment.name,
            status="running" if deployment.is_running else "stopped",
            view="deployments:detail",
            pk=deployment.pk,
        )

"""Which deployments answer with an adapter."""

from __future__ import annotations

from collections.abc import Iterator

from deployments.models import Deployment
from experiments.kept import Use
from experiments.models import Adapter


def deployments_with(adapter: Adapter) -> Iterator[Use]:
    """Yield the deployments whose live version answers with the adapter."""
    for deployment in Deployment.unscoped.filter(live_version__adapter=adapter).order_by("name"):
        yield Use(deployment.name, "deployments:detail", deployment.pk)

"""Which deployments answer with an adapter."""

from __future__ import annotations

from collections.abc import Iterator

from django.db.models import Q

from deployments.models import Deployment
from experiments.kept import Use
from experiments.models import Adapter


def deployments_with(adapter: Adapter) -> Iterator[Use]:
    """Yield the deployments whose live version or canary answers with the adapter."""
    answering = Q(live_version__adapter=adapter) | Q(canary_version__adapter=adapter)
    for deployment in Deployment.unscoped.filter(answering).order_by("name"):
        yield Use(deployment.name, "deployments:detail", deployment.pk)

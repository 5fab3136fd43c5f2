"""What the platform's console shows of deployments."""

from __future__ import annotations

from collections.abc import Iterable

from django.utils.translation import gettext as _

from deployments.models import Deployment
from portal.platform_facts import Fact


def deployment_facts() -> Iterable[Fact]:
    """Yield how many deployments answer. Call it in the row scope of all teams."""
    yield Fact(
        _("Running deployments"),
        Deployment.unscoped.filter(is_running=True).count(),
        "rocket",
        view="deployments:platform_deployments",
    )

"""What the platform's console shows of runs."""

from __future__ import annotations

from collections.abc import Iterable

from django.db.models import Count, Q
from django.utils.translation import gettext as _

from experiments.models import Run
from portal.platform_facts import Fact


def run_facts() -> Iterable[Fact]:
    """Yield how many runs of all teams work and wait. Call it in the row scope of all teams."""
    waiting, working = Q(status=Run.Status.QUEUED), Q(status__in=Run.ACTIVE)
    unfinished = Run.unscoped.filter(waiting | working).order_by()
    counts = unfinished.aggregate(working=Count("pk", filter=working), waiting=Count("pk", filter=waiting))
    yield Fact(_("Running runs"), counts["working"], "flask", view="experiments:platform_runs")
    yield Fact(_("Queued runs"), counts["waiting"], "clock", view="experiments:platform_runs")

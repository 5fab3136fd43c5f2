"""Deployments of all teams, for platform admins."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from django.core.paginator import Paginator
from django.db.models import Count, Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from deployments import services
from deployments.models import Deployment, InferenceRecord, Placement
from deployments.states import standings_among
from portal import search
from portal.access import platform_admin_view
from portal.views.platform.actions import attempt

_PER_PAGE = 50


@platform_admin_view
def index(request: HttpRequest) -> HttpResponse:
    """List deployments with their state and the traffic of the last day, by a word if one is given."""
    query = search.typed(request)
    found = Deployment.unscoped.select_related("team", "live_version__adapter__base_model", "next_version")
    if query:
        found = found.filter(Q(name__icontains=query) | Q(team__slug=query) | Q(team__name__icontains=query))
    page = Paginator(found.order_by("team__name", "name", "pk"), _PER_PAGE).get_page(request.GET.get("page"))
    standing = standings_among(Placement.unscoped.all(), list(page))
    traffic = _requests_of_a_day(list(page))
    rows = [(one, standing[one].state, traffic.get(one.pk, 0)) for one in page]
    return render(request, "platform/deployments.html", {"page": page, "rows": rows, "query": query})


def _requests_of_a_day(shown: list[Deployment]) -> dict[UUID, int]:
    since = timezone.now() - timedelta(days=1)
    asked = InferenceRecord.unscoped.filter(version__deployment__in=shown, at__gte=since)
    asked = asked.exclude(attempt=InferenceRecord.Attempt.REPLACED).order_by()
    counted = asked.values_list("version__deployment").annotate(count=Count("pk"))
    return dict(counted)


@platform_admin_view
@require_POST
def stop(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Stop a deployment; its team can start it again."""
    deployment = get_object_or_404(Deployment.unscoped.select_related("team"), pk=pk)
    said = _("%(name)s answers no more requests.") % {"name": deployment.name}
    attempt(request, said, services.stop_deployment, deployment=deployment)
    return redirect("deployments:platform_deployments")

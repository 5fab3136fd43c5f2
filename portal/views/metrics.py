"""Figures for the operator's monitoring."""

from __future__ import annotations

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django.utils.crypto import constant_time_compare
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from portal import prometheus
from portal.access import public_view
from portal.rls import all_teams


@public_view
@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """Answer all figures in Prometheus' text format to whoever knows TUNEPORT_METRICS_TOKEN; without one there is no
    such page.
    """
    if not settings.METRICS_TOKEN:
        raise Http404
    scheme, _space, given = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not constant_time_compare(given.strip(), settings.METRICS_TOKEN):
        refused = HttpResponse(
            _("Send the token of TUNEPORT_METRICS_TOKEN as 'Authorization: Bearer <token>'."), status=401
        )
        refused.headers["WWW-Authenticate"] = 'Bearer realm="tuneport metrics"'
        return refused
    with all_teams("an operator's monitoring counts all teams together"):
        lines = prometheus.reported()
    lines += prometheus.relayed()
    return HttpResponse("\n".join(lines) + "\n", content_type=prometheus.CONTENT_TYPE)

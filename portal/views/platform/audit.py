"""The audit trail of all teams and of the platform itself."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.views.decorators.http import require_safe

from portal.access import platform_admin_view
from portal.audit_trail import PlatformFilterForm
from portal.models import AuditEvent
from portal.views.audit import trail_download, trail_page


@platform_admin_view
@require_safe
def index(request: HttpRequest) -> HttpResponse:
    """Show what was done anywhere."""
    form = PlatformFilterForm(request.GET)
    return trail_page(request, form, AuditEvent.objects.all(), "platform/audit.html", with_teams=True)


@platform_admin_view
@require_safe
def export(request: HttpRequest) -> HttpResponseBase:
    """Download the events that the page's filters leave."""
    return trail_download(request, PlatformFilterForm(request.GET), AuditEvent.objects.all(), None)

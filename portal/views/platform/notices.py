"""What the platform tells everybody: maintenance and announcements."""

from __future__ import annotations

from uuid import UUID

from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from portal import announcements as services
from portal import platform_state
from portal.access import platform_admin_view, signed_in_view
from portal.models import Announcement, PlatformState
from portal.platform_forms import AnnouncementForm, MaintenanceForm
from portal.views.platform.actions import attempt

_SHOWN = 100


@platform_admin_view
def maintenance(request: HttpRequest) -> HttpResponse:
    """Show whether the portal is closed; close it with what is sent, or open it."""
    state = PlatformState.objects.first() or PlatformState()
    form = MaintenanceForm(request.POST or None, instance=state)
    if request.method == "POST" and "end" in request.POST:
        attempt(request, _("The portal is open again."), platform_state.end_maintenance)
        return redirect("platform:maintenance")
    if form.is_valid():
        said = _("The portal is closed to everybody but platform admins.")
        message, wait = form.cleaned_data["maintenance_message"], form.cleaned_data["retry_after_s"]
        attempt(request, said, platform_state.start_maintenance, message=message, retry_after_s=wait)
        return redirect("platform:maintenance")
    context = {"form": form, "state": state}
    return render(request, "platform/maintenance.html", context, status=400 if form.errors else 200)


@platform_admin_view
def announcements(request: HttpRequest) -> HttpResponse:
    """List announcements and publish one."""
    form = AnnouncementForm(request.POST or None, initial={"starts_at": timezone.now()})
    if form.is_valid() and attempt(request, _("Published."), services.publish, **form.cleaned_data):
        return redirect("platform:announcements")
    context = {"form": form, "announcements": Announcement.objects.select_related("created_by")[:_SHOWN]}
    return render(request, "platform/announcements.html", context, status=400 if form.errors else 200)


@platform_admin_view
@require_POST
def withdraw(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Show an announcement no longer."""
    announcement = get_object_or_404(Announcement, pk=pk)
    attempt(request, _("The announcement is withdrawn."), services.withdraw, announcement=announcement)
    return redirect("platform:announcements")


@signed_in_view
@require_POST
def dismiss(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Close an announcement for the person who is signed in, and go back to where they were."""
    announcement = get_object_or_404(Announcement, pk=pk)
    services.dismiss(announcement=announcement, person=request.user)  # type: ignore[arg-type]
    if request.headers.get("HX-Request"):
        return HttpResponse(status=200)
    back = request.META.get("HTTP_REFERER", "")
    is_ours = url_has_allowed_host_and_scheme(back, {request.get_host()}, require_https=request.is_secure())
    return redirect(back if is_ours else "portal:home")

"""The tracker outside of the portal to which the figures of a team's runs are copied."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST

from experiments.trackers import following, services
from experiments.trackers.forms import TrackerForm
from portal import audit
from portal.access import TeamRequest, team_view
from portal.actors import Actor
from portal.errors import PortalError
from portal.impersonation import refuse_if_impersonated
from portal.models import Role
from portal.platform_forms import applied
from portal.rls import team_scope

_SHOWN_RUNS = 20


@team_view(role=Role.ADMIN)
@require_http_methods(["GET", "HEAD", "POST"])
def index(request: TeamRequest) -> HttpResponse:
    """Show and change where figures are copied to, with how the last runs fared."""
    setting = request.team.trackersettings.first()
    form = TrackerForm(request.POST or None, team=request.team, setting=setting)
    if request.method == "POST":
        refuse_if_impersonated(request)
    if applied(form, services.set_tracker, team=request.team, actor=Actor.of(request)):
        messages.success(request, _("Saved. Runs are copied there from now on, about once a minute."))
        return redirect("experiments:tracker", request.team.slug)
    copied = request.team.trackedruns.select_related("run__experiment", "tracker")[:_SHOWN_RUNS]
    context = {"form": form, "setting": setting, "copied": copied}
    return render(request, "experiments/tracker.html", context, status=400 if form.errors else 200)


@team_view(role=Role.ADMIN, streams=True)
@require_POST
def test(request: TeamRequest) -> HttpResponse:
    """Ask the tracker whether it is there; no transaction is open while it is waited for."""
    actor = Actor.of(request)
    with team_scope(request.team.pk):
        refuse_if_impersonated(request)
        setting = get_object_or_404(request.team.trackersettings.select_related("team"))
        audit.record(request.team, actor, "tracker.tested", setting, address=setting.address)
    try:
        messages.success(request, following.try_tracker(setting))
    except PortalError as error:
        messages.error(request, error.message)
    return redirect("experiments:tracker", request.team.slug)


@team_view(role=Role.ADMIN)
@require_POST
def delete(request: TeamRequest) -> HttpResponse:
    """Copy nothing any more."""
    refuse_if_impersonated(request)
    services.remove_tracker(setting=get_object_or_404(request.team.trackersettings), actor=Actor.of(request))
    messages.success(request, _("Nothing is copied any more. What was copied stays at the tracker."))
    return redirect("experiments:tracker", request.team.slug)

"""Home, the team's dashboard, and the style guide."""

from __future__ import annotations

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render

from portal.access import TeamRequest, public_view, signed_in_view, team_view, teams_of
from portal.invitations import waiting_for
from portal.models import Team


@signed_in_view
def home(request: HttpRequest) -> HttpResponse:
    """Lead to the only team, or let the person choose one; open invitations come first."""
    teams = teams_of(request.user)  # type: ignore[arg-type]
    waiting = waiting_for(request.user)  # type: ignore[arg-type]
    if len(teams) == 1 and not waiting:
        return redirect("portal:dashboard", teams[0].slug)
    context = {"own_teams": teams, "invitations": waiting}
    return render(request, "portal/choose_team.html" if teams else "portal/no_team.html", context)


@team_view()
def dashboard(request: TeamRequest) -> HttpResponse:
    """Show what the team is doing now and what to do next."""
    return render(request, "portal/dashboard.html", dashboard_context(request.team))


def dashboard_context(team: Team) -> dict[str, object]:
    """Return counts and latest rows, read through the team's own related managers (no import of the upper rooms)."""
    runs = team.runs.select_related("experiment", "dataset_version__dataset")
    return {
        "dataset_count": team.datasets.count(),
        "active_runs": list(runs.filter(status__in=["queued", "assigned", "running"])[:5]),
        "recent_runs": runs.order_by("-queued_at")[:6],
        "run_count": runs.count(),
        "deployments": team.deployments.select_related("live_version__adapter__run__experiment")[:6],
        "deployment_count": team.deployments.count(),
        "token_count": team.apitokens.filter(revoked_at=None).count(),
    }


@team_view()
def active_runs(request: TeamRequest) -> HttpResponse:
    """Answer the dashboard's card of waiting and working runs; 286 stops its polling when there are none left."""
    context = dashboard_context(request.team)
    return render(request, "portal/_active_runs.html", context, status=200 if context["active_runs"] else 286)


@public_view
def style_guide(request: HttpRequest) -> HttpResponse:
    """Show every component of the interface; in development only."""
    if settings.PRODUCTION:
        raise Http404
    return render(request, "portal/style_guide.html")

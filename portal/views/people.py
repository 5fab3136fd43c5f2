"""Who is in the team."""

from __future__ import annotations

from django.http import HttpResponse
from django.shortcuts import render

from portal.access import TeamRequest, team_view


@team_view()
def members(request: TeamRequest) -> HttpResponse:
    """List the members and their roles."""
    return render(request, "portal/members.html", {"memberships": request.team.memberships.select_related("user")})

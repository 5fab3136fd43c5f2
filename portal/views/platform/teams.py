"""Teams: found, made, renamed, weighed, closed and deleted."""

from __future__ import annotations

from django.contrib import messages
from django.core.paginator import Paginator
from django.db.models import Count, Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from portal import platform_teams, search, team_end, teams
from portal.access import platform_admin_view
from portal.actors import Actor
from portal.errors import PortalError
from portal.models import Team
from portal.platform_forms import DeleteTeamForm, NewTeamForm, RenameTeamForm, WeightForm, applied
from portal.views.platform.actions import attempt

PER_PAGE = 50


@platform_admin_view
def index(request: HttpRequest) -> HttpResponse:
    """List the teams, by a word in their name or address if one is given."""
    query = search.typed(request)
    found = Team.objects.filter(Q(name__icontains=query) | Q(slug__icontains=query)) if query else Team.objects.all()
    with_counts = found.annotate(member_count=Count("memberships")).order_by("name", "pk")
    page = Paginator(with_counts, PER_PAGE).get_page(request.GET.get("page"))
    return render(request, "platform/teams.html", {"page": page, "query": query})


@platform_admin_view
def new(request: HttpRequest) -> HttpResponse:
    """Create a team with its first admin, who need not have signed in before."""
    form = NewTeamForm(request.POST or None)
    if form.is_valid():
        try:
            owner, _is_new = teams.find_or_invite_person(form.cleaned_data["email"])
            team = teams.create_team(name=form.cleaned_data["name"], owner=owner, actor=Actor.of(request))
        except PortalError as error:
            form.add_error(error.param if error.param in form.fields else None, error.message)
        else:
            messages.success(request, _("The team “%(name)s” is there.") % {"name": team.name})
            return redirect("platform:teams_detail", team.slug)
    return render(request, "platform/team_new.html", {"form": form}, status=400 if form.errors else 200)


@platform_admin_view
def detail(request: HttpRequest, slug: str) -> HttpResponse:
    """Show a team with what may be done about it; what is sent here changes its name or weight."""
    team = get_object_or_404(Team, slug=slug)
    rename = RenameTeamForm(request.POST if "rename" in request.POST else None, initial={"name": team.name})
    weigh = WeightForm(request.POST if "weigh" in request.POST else None, initial={"weight": team.weight})
    actor = Actor.of(request)
    changed = applied(rename, platform_teams.rename_team, team=team, actor=actor) if rename.is_bound else False
    changed |= applied(weigh, platform_teams.set_weight, team=team, actor=actor) if weigh.is_bound else False
    if changed:
        messages.success(request, _("Saved."))
        return redirect("platform:teams_detail", slug)
    team.refresh_from_db()
    context = {
        "shown": team,
        "rename": rename,
        "weigh": weigh,
        "memberships": team.memberships.select_related("user").order_by("user__email"),
        "counts": _counts(team),
    }
    return render(request, "platform/team.html", context, status=400 if rename.errors or weigh.errors else 200)


def _counts(team: Team) -> list[tuple[str, int]]:
    """Count what a team has, through its own related managers (no import of the upper rooms)."""
    return [
        (_("Datasets"), team.datasets.count()),
        (_("Runs"), team.runs.count()),
        (_("Deployments"), team.deployments.count()),
        (_("API tokens"), team.apitokens.filter(revoked_at=None).count()),
    ]


@platform_admin_view
@require_POST
def archive(request: HttpRequest, slug: str) -> HttpResponse:
    """Close a team; everything is kept."""
    team = get_object_or_404(Team, slug=slug)
    attempt(request, _("The team is archived. Its runs and deployments stop."), team_end.archive_team, team=team)
    return redirect("platform:teams_detail", slug)


@platform_admin_view
@require_POST
def restore(request: HttpRequest, slug: str) -> HttpResponse:
    """Open an archived team again."""
    team = get_object_or_404(Team, slug=slug)
    attempt(request, _("The team is open again."), team_end.restore_team, team=team)
    return redirect("platform:teams_detail", slug)


@platform_admin_view
def delete(request: HttpRequest, slug: str) -> HttpResponse:
    """Ask for the team's address, and delete everything that the team has."""
    team = get_object_or_404(Team, slug=slug)
    form = DeleteTeamForm(request.POST or None)
    if applied(form, team_end.delete_team, team=team, actor=Actor.of(request)):
        messages.success(request, _("The team “%(name)s” and all it had are deleted.") % {"name": team.name})
        return redirect("platform:teams")
    context = {"shown": team, "form": form, "counts": _counts(team)}
    return render(request, "platform/team_delete.html", context, status=400 if form.errors else 200)

"""Teams: found, made, renamed, weighed, closed and deleted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.core.paginator import Paginator
from django.db.models import Count, Q
from django.forms import Form
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from portal import invitations, platform_teams, search, team_end, teams
from portal.access import platform_admin_view
from portal.actors import Actor
from portal.models import Invitation, Team
from portal.platform_forms import (
    DeleteTeamForm,
    InviteAdminForm,
    NewTeamForm,
    RenameTeamForm,
    SecondFactorForm,
    WeightForm,
    applied,
)
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
    """Create a team with its first admin; one who has no account yet is invited."""
    form = NewTeamForm(request.POST or None)
    made: list[tuple[Team, Invitation | None, str]] = []

    def create(**values: Any) -> None:
        made.append(platform_teams.open_team(**values))

    if not applied(form, create, actor=Actor.of(request)):
        return render(request, "platform/team_new.html", {"form": form}, status=400 if form.errors else 200)
    team, invitation, token = made[0]
    if invitation is not None:
        return _handed_out(request, team, invitation, token)
    messages.success(request, _("The team “%(name)s” is there.") % {"name": team.name})
    return redirect("platform:teams_detail", team.slug)


def _handed_out(request: HttpRequest, team: Team, invitation: Invitation, token: str) -> HttpResponse:
    """Mail an invitation's link and show it this once."""
    link = request.build_absolute_uri(reverse("portal:invitation", args=[token]))
    context = {"shown": team, "invitation": invitation, "link": link, "mailed": invitations.send(invitation, link)}
    return render(request, "platform/team_invited.html", context)


@platform_admin_view
def detail(request: HttpRequest, slug: str) -> HttpResponse:
    """Show a team with what may be done about it; what is sent here changes its name, weight or demands."""
    team, actor = get_object_or_404(Team, slug=slug), Actor.of(request)
    forms: dict[str, tuple[Form, Callable[..., object]]] = {
        "rename": (RenameTeamForm(_sent(request, "rename"), initial={"name": team.name}), platform_teams.rename_team),
        "weigh": (WeightForm(_sent(request, "weigh"), initial={"weight": team.weight}), platform_teams.set_weight),
        "mfa": (
            SecondFactorForm(_sent(request, "mfa"), initial={"required": team.mfa_required}),
            teams.set_mfa_required,
        ),
    }
    for form, service in forms.values():
        if form.is_bound and applied(form, service, team=team, actor=actor):
            messages.success(request, _("Saved."))
            return redirect("platform:teams_detail", slug)
    invite = InviteAdminForm(_sent(request, "invite"))
    invited: list[tuple[Invitation, str]] = []
    if invite.is_bound and applied(
        invite, lambda **values: invited.append(platform_teams.invite_admin(**values)), team=team, actor=actor
    ):
        return _handed_out(request, team, *invited[0])
    team.refresh_from_db()
    context = {
        "shown": team,
        **{name: form for name, (form, _service) in forms.items()},
        "invite": invite,
        "memberships": team.memberships.select_related("user").order_by("user__email"),
        "counts": _counts(team),
    }
    has_errors = invite.errors or any(form.errors for form, _service in forms.values())
    return render(request, "platform/team.html", context, status=400 if has_errors else 200)


def _sent(request: HttpRequest, button: str) -> QueryDict | None:
    """Return what was sent if it was sent with this button."""
    return request.POST if request.method == "POST" and button in request.POST else None


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

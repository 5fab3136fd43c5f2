"""Who may see a page. Every view declares one policy; a route without one stops the start-up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, cast

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponseBase
from django.utils.translation import gettext as _

from portal import second_factor
from portal.actors import Actor
from portal.errors import Forbidden
from portal.models import Membership, Role, Team, User
from portal.rls import all_teams, team_scope

View = Callable[..., HttpResponseBase]


@dataclass(frozen=True)
class Policy:
    """Who may call a route: 'public', 'signed-in', 'team' with a role, 'platform-admin' or 'token'."""

    kind: str
    role: Role | None = None


class TeamRequest(HttpRequest):
    """A request after `team_view`: the person, their team and their role in it."""

    user: User
    team: Team
    role: Role
    request_id: str


def public_view(view: View) -> View:
    """Mark a view that anybody may see."""
    return _declare(view, Policy("public"))


def signed_in_view(view: View) -> View:
    """Let in any person who signed in."""
    return _declare(login_required(view), Policy("signed-in"))


def platform_admin_view(view: View) -> View:
    """Let in platform admins and open the row scope of all teams; to everybody else the page does not exist."""

    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not request.user.is_platform_admin:  # type: ignore[union-attr]
            raise Http404
        if (away := second_factor.ask_for_it(request, None)) is not None:
            return away
        with all_teams("the platform's admins look after all teams"):
            return view(request, *args, **kwargs)

    return _declare(login_required(guarded), Policy("platform-admin"))


def team_view(*, role: Role = Role.VIEWER, streams: bool = False) -> Callable[[View], View]:
    """Let in members of the team in the address who have at least `role`; open the team's row scope around the view.

    A stranger gets 404, a member without the role 403. The view is called as view(request, …) without the slug;
    `request.team` and `request.role` are set. With `streams` the view opens scopes itself, since no transaction may
    stay open while a response trickles out.
    """

    def decorate(view: View) -> View:
        @wraps(view)
        def guarded(request: HttpRequest, team: str, *args: Any, **kwargs: Any) -> HttpResponseBase:
            membership = membership_of(cast(User, request.user), team)
            if membership is None:
                raise Http404
            if (away := second_factor.ask_for_it(request, membership.team)) is not None:
                return away
            if not Role(membership.role).includes(role):
                needed = role.label
                raise Forbidden(_("This needs the role %(role)s in the team.") % {"role": needed})
            team_request = cast(TeamRequest, request)
            team_request.team, team_request.role = membership.team, Role(membership.role)
            if streams:
                return view(request, *args, **kwargs)
            with team_scope(membership.team_id):
                return view(request, *args, **kwargs)

        return _declare(login_required(guarded), Policy("team", role))

    return decorate


def membership_of(user: User, slug: str) -> Membership | None:
    """Return the person's membership in the team of this slug, or None for strangers and for slugs nobody has."""
    with all_teams("a person's own membership decides the scope"):
        return (
            Membership.unscoped.select_related("team")
            .filter(user=user, team__slug=slug, team__archived_at=None)
            .first()
        )


def memberships_of(user: User) -> list[Membership]:
    """Return a person's memberships with their teams, by the teams' names."""
    with all_teams("a person's own memberships"):
        known = Membership.unscoped.select_related("team").filter(user=user, team__archived_at=None)
        return list(known.order_by("team__name"))


def may_still_edit(team: Team, person: User | None) -> bool:
    """Return whether what `person` once started for `team` may still go on, by their rights of today.

    Nobody's doing (None: a service account's or a machine's) may. Call it in a scope that sees the team.
    """
    if person is None:
        return True
    if person.is_active and person.is_platform_admin:
        return True
    membership = Membership.unscoped.filter(team=team, user=person).first()
    return person.is_active and membership is not None and Role(membership.role).includes(Role.EDITOR)


def may_administer(team: Team, actor: Actor) -> bool:
    """Return whether the doer is an admin of `team` now: a person, in a browser or by a token of their own.

    Machines and service accounts are not. Call it in a scope that sees the team.
    """
    if actor.user is None or not actor.user.is_active:
        return False
    membership = Membership.unscoped.filter(team=team, user=actor.user).first()
    return membership is not None and Role(membership.role).includes(Role.ADMIN)


def teams_of(user: User) -> list[Team]:
    """Return the teams a person belongs to, by name."""
    with all_teams("a person's own teams"):
        return list(Team.objects.filter(memberships__user=user, archived_at=None).order_by("name"))


def _declare(view: View, policy: Policy) -> View:
    view.policy = policy  # type: ignore[attr-defined]
    return view


def policy_of(callback: Any) -> Policy | None:
    """Return the policy that a URL's callback declares: functions carry it, API views inherit it from their class."""
    own = getattr(callback, "policy", None) or getattr(getattr(callback, "cls", None), "policy", None)
    return own if isinstance(own, Policy) else None

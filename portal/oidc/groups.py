"""Roles that come from a provider's groups: given at sign-in, and taken with the group."""

from __future__ import annotations

from collections.abc import Collection

from django.db import transaction

from portal import audit, teams
from portal.actors import Actor
from portal.errors import IllegalTransition
from portal.models import Membership, Role, Team, User
from portal.oidc.config import Provider
from portal.rls import all_teams


@transaction.atomic
def apply_groups(*, person: User, provider: Provider, groups: Collection[str], actor: Actor) -> None:
    """Make the person's roles fit their groups at this provider.

    Roles that a person gave, or another provider, stay as they are. A team's last admin stays one, with a note.
    """
    wanted = {slug: Role(name) for slug, name in provider.roles_of(groups).items()}
    with all_teams("a provider's groups may concern any team"):
        known = Membership.unscoped.select_related("team", "user").filter(user=person)
        memberships = {membership.team.slug: membership for membership in known}
        named = Team.objects.filter(slug__in=wanted, archived_at=None)
        concerned = {team.slug: team for team in named}
        concerned |= {slug: own.team for slug, own in memberships.items() if own.given_by == provider.id}
        # One order of locks for everybody who signs in at the same time.
        for slug, team in sorted(concerned.items()):
            _fit(team, memberships.get(slug), wanted.get(slug), person, provider, actor)


def _fit(
    team: Team, own: Membership | None, wanted: Role | None, person: User, provider: Provider, actor: Actor
) -> None:
    if own is None and wanted is not None:
        made, is_new = team.memberships.get_or_create(user=person, defaults={"role": wanted, "given_by": provider.id})
        if is_new:
            audit.record(team, actor, "member.added", made, role=wanted.value, given_by=provider.id)
        return
    if own is None or own.given_by != provider.id or own.role == wanted:
        return
    try:
        if wanted is None:
            teams.remove_member(membership=own, actor=actor)
        else:
            teams.change_role(membership=own, role=wanted, actor=actor, given_by=provider.id)
    except IllegalTransition:
        audit.record(team, actor, "member.kept_last_admin", own, given_by=provider.id)

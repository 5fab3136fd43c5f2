"""What platform admins decide about a team: its name and its share of the GPUs. Its end is in `team_end`."""

from __future__ import annotations

from django.db import transaction
from django.utils.translation import gettext as _

from portal import audit, invitations, mail, teams
from portal.actors import Actor
from portal.errors import InvalidInput
from portal.models import Invitation, Role, Team
from portal.queue import enqueue_on_commit
from portal.rls import team_scope
from portal.words import checked_words

HEAVIEST = 100


@transaction.atomic
def open_team(*, name: str, email: str, actor: Actor) -> tuple[Team, Invitation | None, str]:
    """Create a team and give it its first admin; somebody who has no account yet is invited.

    Returns the team and, for an invitation, its row and token. Raises: InvalidInput for a bad name or address.
    """
    # Without mail an address proves nothing here: whoever holds it needs the link that is handed to them.
    known = invitations.owners_of(email.strip().lower()) if mail.is_configured() else []
    team = teams.create_team(name=name, owner=known[0] if len(known) == 1 else None, actor=actor)
    if len(known) == 1:
        return team, None, ""
    invitation, token = invite_admin(team=team, email=email, actor=actor)
    return team, invitation, token


def invite_admin(*, team: Team, email: str, actor: Actor) -> tuple[Invitation, str]:
    """Invite somebody as an admin of a team that one need not be in oneself; see `invitations.invite`."""
    with team_scope(team.pk):
        return invitations.invite(team=team, email=email, role=Role.ADMIN, actor=actor)


@transaction.atomic
def rename_team(*, team: Team, name: str, actor: Actor) -> None:
    """Give a team another name; its address stays, so that links and programs go on working."""
    name = checked_words(name, param="name", longest=80)
    if name == team.name:
        return
    before, team.name = team.name, name
    team.save(update_fields=["name"])
    audit.record(team, actor, "team.renamed", team, before=before)


@transaction.atomic
def set_weight(*, team: Team, weight: int, actor: Actor) -> None:
    """Change a team's share of the GPUs; the next run that starts is chosen by it."""
    if not 1 <= weight <= HEAVIEST:
        raise InvalidInput(_("Choose a weight from 1 to %(most)d.") % {"most": HEAVIEST}, param="weight")
    if weight == team.weight:
        return
    before, team.weight = team.weight, weight
    team.save(update_fields=["weight"])
    audit.record(team, actor, "team.weight_changed", team, weight=weight, before=before)
    enqueue_on_commit("experiments.tasks.dispatch")

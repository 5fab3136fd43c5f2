"""What may be done to teams and their members."""

from __future__ import annotations

from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import transaction
from django.utils.text import slugify
from django.utils.translation import gettext as _

from portal import audit, limits, second_factor, tokens
from portal.actors import Actor
from portal.errors import IllegalTransition, InvalidInput, NotFound
from portal.models import Membership, Role, Team, User
from portal.rls import team_scope


def create_team(*, name: str, owner: User | None, actor: Actor) -> Team:
    """Create a team with its first admin; without one somebody has to be invited to it.

    Raises: InvalidInput if the name is empty or its address is taken.
    """
    slug = slugify(name)[:60]
    if not slug:
        raise InvalidInput(_("Give the team a name with at least one Latin letter or digit."), param="name")
    if Team.objects.filter(slug=slug).exists():
        raise InvalidInput(_("There is already a team at the address '%(slug)s'.") % {"slug": slug}, param="name")
    with transaction.atomic():
        team = Team.objects.create(name=name.strip()[:80], slug=slug, max_concurrent_runs=limits.default_runs())
        with team_scope(team.pk):
            audit.record(team, actor, "team.created", team)
            if owner is not None:
                membership = team.memberships.create(user=owner, role=Role.ADMIN)
                audit.record(team, actor, "member.added", membership, role=Role.ADMIN.value)
    return team


def find_or_invite_person(email: str) -> tuple[User, bool]:
    """Return the person with this address and whether they are new; a new one has no usable password yet.

    Raises: InvalidInput for something that is no e-mail address.
    """
    email = email.strip().lower()
    try:
        validate_email(email)
    except ValidationError:
        raise InvalidInput(_("'%(email)s' is not an e-mail address.") % {"email": email}, param="email") from None
    found = User.objects.filter(email=email).first()
    return (found, False) if found else (User.objects.create_user(email), True)


@transaction.atomic
def change_role(*, membership: Membership, role: Role, actor: Actor, given_by: str = "") -> None:
    """Give a member another role; the last admin keeps theirs. A role given by hand stays when a group's would go."""
    actor.require_self()
    if role == Role.ADMIN:
        _lock(membership)
    else:
        _keep_an_admin(membership)
    membership.role, membership.given_by = role, given_by
    membership.save(update_fields=["role", "given_by"])
    audit.record(membership.team, actor, "member.role_changed", membership, role=role.value)


@transaction.atomic
def remove_member(*, membership: Membership, actor: Actor) -> None:
    """Take a person out of the team; the last admin stays."""
    actor.require_self()
    _keep_an_admin(membership)
    audit.record(membership.team, actor, "member.removed", membership)
    tokens.revoke_tokens_of(team=membership.team, person=membership.user, actor=actor)
    membership.delete()


@transaction.atomic
def set_mfa_required(*, team: Team, required: bool, actor: Actor) -> None:
    """Demand a second factor of all members, or no longer; API tokens go on working. A second call changes nothing.

    Raises: IllegalTransition if a member demands it who has none, since they would lock themselves out.
    """
    actor.require_self()
    person = actor.user
    if required and person is not None and not second_factor.has_second_factor(person):
        with team_scope(team.pk):
            if team.memberships.filter(user=person).exists():
                raise IllegalTransition(_("Set up a second factor for yourself first."), code="second_factor_missing")
    if Team.objects.filter(pk=team.pk).exclude(mfa_required=required).update(mfa_required=required):
        team.refresh_from_db(fields=["mfa_required"])
        audit.record(team, actor, "team.mfa_required_changed", team, required=required)


def is_last_admin(membership: Membership) -> bool:
    """Return whether nobody else could look after the team; decides only while the team's row is locked."""
    others = membership.team.memberships.filter(role=Role.ADMIN, user__is_active=True).exclude(pk=membership.pk)
    return membership.role == Role.ADMIN and not others.exists()


def _lock(membership: Membership) -> None:
    # The lock makes two who leave at the same time see each other; the role may have changed since it was read.
    Team.objects.select_for_update(no_key=True).get(pk=membership.team_id)
    try:
        membership.refresh_from_db(fields=["role"])
    except Membership.DoesNotExist:
        raise NotFound(_("This person is no longer a member.")) from None


def _keep_an_admin(leaving: Membership) -> None:
    _lock(leaving)
    if is_last_admin(leaving):
        raise IllegalTransition(
            _("A team needs at least one admin. Make somebody else an admin first."), code="last_admin"
        )

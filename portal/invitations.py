"""Inviting people into a team, and joining one: by a link that is mailed, and shown once to be handed over.

Who opens the link has to own the invited address. The mailed link carries a proof that the mail was received; who got
the link another way proves the address by a mail of its own.
"""

from __future__ import annotations

import hashlib
import secrets
from datetime import timedelta

from allauth.account.models import EmailAddress
from django.core import signing
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from portal import audit, mail
from portal.actors import Actor
from portal.errors import IllegalTransition, InvalidInput, NotFound
from portal.models import Invitation, Membership, Role, Team, User
from portal.rls import all_teams, team_scope

LIFETIME = timedelta(days=14)
_OPEN_AT_MOST = 100
_PROOF = "portal.invitations.mailed"


@transaction.atomic
def invite(*, team: Team, email: str, role: Role, actor: Actor) -> tuple[Invitation, str]:
    """Invite an address and return the invitation with its token, which is never shown again.

    Raises: InvalidInput for a bad address, a member's address, or one that has an open invitation already.
    """
    actor.require_self()
    email = _checked_address(email)
    Team.objects.select_for_update(no_key=True).get(pk=team.pk)  # keys into it may be written meanwhile
    if team.memberships.filter(user__in=owners_of(email)).exists():
        raise InvalidInput(_("%(email)s is a member of this team already.") % {"email": email}, param="email")
    waiting = team.invitations.filter(accepted_at=None, revoked_at=None)
    waiting.filter(expires_at__lte=timezone.now()).update(revoked_at=timezone.now())
    if waiting.filter(email=email).exists():
        raise InvalidInput(
            _("%(email)s is invited already. Send that invitation again, or withdraw it.") % {"email": email},
            param="email",
        )
    if waiting.count() >= _OPEN_AT_MOST:
        raise IllegalTransition(
            _("There are %(number)s open invitations. Withdraw some first.") % {"number": _OPEN_AT_MOST}
        )
    token = secrets.token_urlsafe(32)
    invitation = team.invitations.create(
        email=email,
        role=role,
        digest=_digest(token),
        invited_by=actor.user,
        expires_at=timezone.now() + LIFETIME,
    )
    audit.record(team, actor, "invitation.created", invitation, role=Role(role).value)
    return invitation, token


@transaction.atomic
def renew(*, invitation: Invitation, actor: Actor) -> str:
    """Give an open or expired invitation a new token and new time; the old link stops working.

    Raises: IllegalTransition if it was accepted or withdrawn.
    """
    actor.require_self()
    token = secrets.token_urlsafe(32)
    changed = Invitation.unscoped.filter(pk=invitation.pk, accepted_at=None, revoked_at=None).update(
        digest=_digest(token), expires_at=timezone.now() + LIFETIME
    )
    if not changed:
        raise IllegalTransition(_("This invitation was accepted or withdrawn already. Invite the person anew."))
    invitation.refresh_from_db()
    audit.record(invitation.team, actor, "invitation.resent", invitation)
    return token


@transaction.atomic
def revoke(*, invitation: Invitation, actor: Actor) -> None:
    """Withdraw an invitation; a second call, or one after it was accepted, changes nothing."""
    open_one = Invitation.unscoped.filter(pk=invitation.pk, accepted_at=None, revoked_at=None)
    if open_one.update(revoked_at=timezone.now()):
        audit.record(invitation.team, actor, "invitation.revoked", invitation)


def send(invitation: Invitation, link: str) -> bool:
    """Mail the link, with the proof that it came by mail; return whether the mail server took it."""
    proof = signing.dumps(invitation.digest, salt=_PROOF)
    context = {
        "team": invitation.team,
        "inviter": invitation.invited_by,
        "role": invitation.get_role_display(),
        "link": f"{link}?mailed={proof}",
        "expires_at": invitation.expires_at,
    }
    return mail.is_configured() and mail.send(to=invitation.email, template="invitation", context=context)


def find_open(pk: str) -> Invitation | None:
    """Return an open invitation that was found by its link earlier, in this session."""
    with all_teams("an invitation names its team only after it was found"):
        found = Invitation.unscoped.select_related("team").filter(pk=pk, team__archived_at=None).first()
    return found if found is not None and found.is_open else None


def find(token: str) -> Invitation:
    """Return the open invitation of a link.

    Raises: NotFound with one sentence for links that are unknown, used, withdrawn or too old.
    """
    with all_teams("an invitation names its team only after it was found"):
        found = Invitation.unscoped.select_related("team", "invited_by").filter(digest=_digest(token)).first()
    if found is None or not found.is_open or found.team.archived_at is not None:
        raise NotFound(
            _("This invitation was used or withdrawn, or is too old. Ask the admin of the team for a new one."),
            code="invitation_over",
        )
    return found


def came_by_mail(invitation: Invitation, proof: str) -> bool:
    """Return whether whoever shows `proof` got the link by mail, and so owns the address.

    Where no mail leaves the installation, the link alone has to do: the admin hands it to the person.
    """
    if not mail.is_configured():
        return True
    try:
        return bool(signing.loads(proof, salt=_PROOF, max_age=LIFETIME) == invitation.digest)
    except signing.BadSignature:
        return False


def owners_of(email: str) -> list[User]:
    """Return the people (at most one) who proved that they own an address."""
    return list(User.objects.filter(emailaddress__email=email, emailaddress__verified=True).distinct())


def is_for(invitation: Invitation, person: User) -> bool:
    """Return whether the invited address is this person's."""
    return invitation.email in _addresses_of(person)


def waiting_for(person: User) -> list[Invitation]:
    """Return the open invitations to addresses that this person proved to own.

    Where no mail leaves the installation, an address was proved to nobody but the team whose link it came with. Then
    each team's own link has to be shown, and nothing waits.
    """
    if not mail.is_configured():
        return []
    with all_teams("a person's own invitations"):
        return list(
            Invitation.unscoped.select_related("team", "invited_by").filter(
                email__in=_addresses_of(person),
                accepted_at=None,
                revoked_at=None,
                expires_at__gt=timezone.now(),
                team__archived_at=None,
            )
        )


def is_any_open_for(addresses: list[str]) -> bool:
    """Return whether any team expects the owner of one of these addresses."""
    with all_teams("an address may be expected by any team"):
        waiting = Invitation.unscoped.filter(accepted_at=None, revoked_at=None, expires_at__gt=timezone.now())
        return bool(waiting.filter(email__in=addresses, team__archived_at=None).exists())


def accept(*, invitation: Invitation, actor: Actor) -> Membership:
    """Make the actor a member with the invitation's role; a member keeps a higher role that they have.

    Raises: IllegalTransition if the address is not theirs, or the invitation was used, withdrawn or is too old.
    """
    actor.require_self()
    person = actor.user
    if person is None or not is_for(invitation, person):
        raise IllegalTransition(
            _("This invitation is for %(email)s. Sign in with that address.") % {"email": invitation.email},
            code="other_address",
        )
    with team_scope(invitation.team_id):
        taken = Invitation.unscoped.filter(
            pk=invitation.pk, accepted_at=None, revoked_at=None, expires_at__gt=timezone.now()
        ).update(accepted_at=timezone.now())
        if not taken:
            raise IllegalTransition(_("This invitation was used or withdrawn, or is too old."), code="invitation_over")
        role = Role(invitation.role)
        Team.objects.select_for_update(no_key=True).get(pk=invitation.team_id)  # nobody changes roles meanwhile
        membership, is_new = invitation.team.memberships.get_or_create(user=person, defaults={"role": role})
        if not is_new:
            membership.role = membership.role if Role(membership.role).includes(role) else role
            membership.given_by = ""
            membership.save(update_fields=["role", "given_by"])
        audit.record(invitation.team, actor, "invitation.accepted", invitation, role=membership.role)
        if is_new:
            audit.record(invitation.team, actor, "member.added", membership, role=membership.role)
    return membership


def _addresses_of(person: User) -> list[str]:
    verified = EmailAddress.objects.filter(user=person, verified=True)
    return [address.lower() for address in verified.values_list("email", flat=True)]


def _checked_address(email: str) -> str:
    email = email.strip().lower()
    try:
        validate_email(email)
    except ValidationError:
        raise InvalidInput(_("'%(email)s' is not an e-mail address.") % {"email": email}, param="email") from None
    return email


def _digest(token: str) -> str:
    """Return what is kept of a token; with 256 random bits, nothing slower is needed."""
    return hashlib.sha256(token.encode()).hexdigest()

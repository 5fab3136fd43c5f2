"""What people do to their own account, and what platform admins decide: who is one of them, who may sign in at all."""

from __future__ import annotations

import secrets

from django.db import transaction
from django.db.models import F, Q
from django.utils.translation import gettext as _

from portal import audit
from portal.actors import Actor
from portal.errors import IllegalTransition, InvalidInput
from portal.models import User


def first_password(person: User) -> str:
    """Give somebody who is new a random password and return it; it is shown once and stored nowhere."""
    password = secrets.token_urlsafe(15)
    person.set_password(password)
    person.save(update_fields=["password"])
    return password


@transaction.atomic
def rename(*, person: User, name: str, actor: Actor) -> None:
    """Give a person another name.

    Raises: InvalidInput if it is empty or too long.
    """
    actor.require_self()
    name = name.strip()
    if not name or len(name) > 120:
        raise InvalidInput(_("Give a name of 1 to 120 characters."), param="name")
    User.objects.filter(pk=person.pk).update(name=name)
    person.refresh_from_db()
    audit.record(None, actor, "person.renamed", person)


@transaction.atomic
def end_sessions(*, person: User, actor: Actor) -> None:
    """Sign a person out everywhere."""
    User.objects.filter(pk=person.pk).update(session_generation=F("session_generation") + 1)
    person.refresh_from_db()
    audit.record(None, actor, "person.sessions_ended", person)


@transaction.atomic
def set_platform_admin(*, person: User, is_admin: bool, actor: Actor) -> None:
    """Make a person a platform admin, or no longer one; the last one stays. A second call changes nothing."""
    locked = _locked(person)
    if locked.is_platform_admin == is_admin:
        return
    if is_admin and not locked.is_active:
        raise IllegalTransition(_("This person is deactivated. Reactivate them first."), code="is_deactivated")
    if not is_admin:
        _keep_a_platform_admin(locked)
    User.objects.filter(pk=locked.pk).update(is_platform_admin=is_admin)
    person.refresh_from_db()
    action = "person.made_platform_admin" if is_admin else "person.unmade_platform_admin"
    audit.record(None, actor, action, person)


@transaction.atomic
def deactivate(*, person: User, actor: Actor) -> None:
    """Shut a person out at once: their sessions end, their API tokens are refused. Nothing they made is lost.

    Raises: IllegalTransition for the last platform admin and for oneself.
    """
    locked = _locked(person)
    if not locked.is_active:
        return
    if actor.user is not None and actor.user.pk == locked.pk:
        raise IllegalTransition(_("You cannot deactivate yourself. Ask another platform admin."), code="is_self")
    _keep_a_platform_admin(locked)
    User.objects.filter(pk=locked.pk).update(is_active=False, session_generation=F("session_generation") + 1)
    person.refresh_from_db()
    audit.record(None, actor, "person.deactivated", person)


@transaction.atomic
def reactivate(*, person: User, actor: Actor) -> None:
    """Let a person sign in again; the sessions they had stay ended. A second call changes nothing."""
    if User.objects.filter(pk=person.pk, is_active=False).update(is_active=True):
        person.refresh_from_db()
        audit.record(None, actor, "person.reactivated", person)


def _locked(person: User) -> User:
    """Return the person as they are now, locked together with all platform admins.

    All are locked in one statement and order, so that two who send each other away neither both succeed nor wait for
    each other for ever.
    """
    wanted = Q(pk=person.pk) | Q(is_platform_admin=True, is_active=True)
    rows = {row.pk: row for row in User.objects.select_for_update().filter(wanted).order_by("pk")}
    return rows[person.pk]


def _keep_a_platform_admin(leaving: User) -> None:
    others = User.objects.filter(is_platform_admin=True, is_active=True).exclude(pk=leaving.pk)
    if leaving.is_platform_admin and not others.exists():
        raise IllegalTransition(
            _("The platform needs at least one admin. Make somebody else one first."), code="last_platform_admin"
        )

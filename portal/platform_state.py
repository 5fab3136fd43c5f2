"""Maintenance and announcements, as every request has to know them.

They are read at most once a second by each process, so a change is felt everywhere within that second (and at once by
the process that made it), and requests do not pay for a look-up of their own.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime

from django.db import InterfaceError, OperationalError, transaction
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext as _

from portal import audit
from portal.actors import Actor
from portal.errors import InvalidInput
from portal.models import Announcement, PlatformState, User
from portal.words import checked_words

FRESH_S = 1.0


@dataclass(frozen=True)
class Snapshot:
    """The platform's state as it was read last; announcements include those whose time is yet to come."""

    maintenance_since: datetime | None
    message: str
    retry_after_s: int
    announcements: tuple[Announcement, ...]
    read_at: float


_latest: Snapshot | None = None


def current() -> Snapshot:
    """Return the state, at most a second old."""
    global _latest
    known = _latest  # another thread may forget it at any moment
    if known is None or time.monotonic() - known.read_at > FRESH_S:
        try:
            known = _latest = _read()
        except (OperationalError, InterfaceError):
            if known is None:
                raise
            # What was true a moment ago will do; whether the database is away is not for this question to say.
    return known


def forget() -> None:
    """Have the state read again at the next question."""
    global _latest
    _latest = None


def _read() -> Snapshot:
    row = PlatformState.objects.first() or PlatformState()
    coming = Announcement.objects.filter(Q(ends_at=None) | Q(ends_at__gt=timezone.now()))
    return Snapshot(
        maintenance_since=row.maintenance_since,
        message=row.maintenance_message,
        retry_after_s=row.retry_after_s,
        announcements=tuple(coming),
        read_at=time.monotonic(),
    )


def runs_may_start() -> bool:
    """Return whether new runs may start, as the database says in this moment."""
    return not PlatformState.objects.exclude(maintenance_since=None).exists()


@transaction.atomic
def start_maintenance(*, message: str, retry_after_s: int, actor: Actor) -> None:
    """Close the portal to everybody but platform admins; runs that work go on, no new ones start.

    Called again it changes the message. Raises: InvalidInput for a message that is too long or a wait out of range.
    """
    message = checked_words(message, param="message", longest=300, may_be_empty=True)
    if not 10 <= retry_after_s <= 86_400:
        raise InvalidInput(_("Choose between 10 seconds and one day."), param="retry_after_s")
    row, _new = PlatformState.objects.select_for_update().get_or_create(pk=1)
    if row.maintenance_since is None:
        row.maintenance_since = timezone.now()
    row.maintenance_message, row.retry_after_s = message, retry_after_s
    row.save()
    audit.record(None, actor, "maintenance.started", retry_after_s=retry_after_s)
    transaction.on_commit(forget)


@transaction.atomic
def end_maintenance(*, actor: Actor) -> None:
    """Open the portal again; a second call changes nothing."""
    closed = PlatformState.objects.exclude(maintenance_since=None)
    if closed.update(maintenance_since=None):
        audit.record(None, actor, "maintenance.ended")
        transaction.on_commit(forget)


def shown_to(user: User) -> list[Announcement]:
    """Return the announcements that this person has to read now: current, and not closed by them."""
    shown = [one for one in current().announcements if one.is_current]
    closable = [one.pk for one in shown if one.is_dismissible]
    if not closable:
        return shown
    dismissals = Announcement.dismissed_by.through.objects
    closed = set(
        dismissals.filter(user_id=user.pk, announcement_id__in=closable).values_list("announcement_id", flat=True)
    )
    return [one for one in shown if one.pk not in closed]

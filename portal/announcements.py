"""What platform admins tell everybody."""

from __future__ import annotations

from datetime import datetime

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from portal import audit, platform_state
from portal.actors import Actor
from portal.errors import InvalidInput
from portal.models import Announcement, User
from portal.words import checked_words


@transaction.atomic
def publish(
    *,
    text: str,
    actor: Actor,
    tone: str = Announcement.Tone.INFO,
    starts_at: datetime | None = None,
    ends_at: datetime | None = None,
    is_dismissible: bool = True,
) -> Announcement:
    """Show a sentence on everybody's pages from `starts_at` (now) until `ends_at` (until it is withdrawn).

    Raises: InvalidInput for an empty text, an unknown tone, or a time that ends before it begins.
    """
    if tone not in Announcement.Tone.values:
        raise InvalidInput(_("Choose one of the tones."), param="tone")
    assert actor.user is not None, "only people announce"
    starts_at = starts_at or timezone.now()
    if ends_at is not None and ends_at <= max(starts_at, timezone.now()):
        raise InvalidInput(_("The end lies before the beginning, or in the past."), param="ends_at")
    announcement = Announcement.objects.create(
        text=checked_words(text, param="text", longest=300),
        tone=tone,
        starts_at=starts_at,
        ends_at=ends_at,
        is_dismissible=is_dismissible,
        created_by=actor.user,
    )
    audit.record(None, actor, "announcement.published", announcement, tone=tone)
    transaction.on_commit(platform_state.forget)
    return announcement


@transaction.atomic
def withdraw(*, announcement: Announcement, actor: Actor) -> None:
    """Show an announcement no longer; a second call changes nothing."""
    now = timezone.now()
    over = Announcement.objects.filter(pk=announcement.pk).exclude(ends_at__lte=now)
    if over.update(ends_at=now):
        audit.record(None, actor, "announcement.withdrawn", announcement)
        transaction.on_commit(platform_state.forget)


def dismiss(*, announcement: Announcement, person: User) -> None:
    """Do not show an announcement to this person again. Raises: InvalidInput if it has to stay."""
    if not announcement.is_dismissible:
        raise InvalidInput(_("This announcement stays until it is over."))
    announcement.dismissed_by.add(person)

"""The end of a team: archived it does nothing any more, deleted it leaves nothing but its audit trail.

What the rooms above have to do when a team ends is registered here by them (`when_archived`), never imported.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from uuid import UUID

from django.apps import apps
from django.conf import settings
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from portal import audit
from portal.actors import Actor
from portal.errors import IllegalTransition, InvalidInput
from portal.models import Team
from portal.queue import enqueue_on_commit
from portal.rls import all_teams
from portal.scoping import TeamOwned

logger = logging.getLogger(__name__)

Ending = Callable[[Team, Actor], None]
_endings: list[Ending] = []


def when_archived(ending: Ending) -> None:
    """Have `ending(team, actor)` called, in the same transaction, when a team is archived. Call it in `ready()`."""
    if ending not in _endings:
        _endings.append(ending)


@transaction.atomic
def archive_team(*, team: Team, actor: Actor) -> None:
    """Close a team: nobody enters, its tokens are refused, its runs and deployments stop; everything is kept.

    A second call changes nothing.
    """
    if not Team.objects.filter(pk=team.pk, archived_at=None).update(archived_at=timezone.now()):
        return
    team.refresh_from_db()
    audit.record(team, actor, "team.archived", team)
    with all_teams("an admin of the platform closes a team"):
        for ending in _endings:
            ending(team, actor)


@transaction.atomic
def restore_team(*, team: Team, actor: Actor) -> None:
    """Open an archived team again. Its deployments stay stopped until somebody starts them."""
    if Team.objects.filter(pk=team.pk).exclude(archived_at=None).update(archived_at=None):
        team.refresh_from_db()
        audit.record(team, actor, "team.restored", team)


@transaction.atomic
def delete_team(*, team: Team, actor: Actor, typed: str) -> None:
    """Delete an archived team with all rows and files; engines unload its adapters within a second.

    Raises: InvalidInput unless `typed` is the team's address, IllegalTransition if it is not archived or a run of it
    still works.
    """
    locked = Team.objects.select_for_update().get(pk=team.pk)
    if typed.strip() != locked.slug:
        raise InvalidInput(_("Type the team's address, %(slug)s, to delete it.") % {"slug": locked.slug}, param="typed")
    if locked.archived_at is None:
        raise IllegalTransition(_("Archive the team first; that can be undone."), code="not_archived")
    with all_teams("an admin of the platform deletes a team"):
        # Through the related manager: the rooms above are not imported here.
        if locked.runs.filter(status__in=["assigned", "running"]).exists():
            raise IllegalTransition(
                _("A run of this team is still being stopped. Try again in a minute."), code="runs_still_work"
            )
        audit.record(locked, actor, "team.deleted", locked)
        for model in _leaves():
            rows = model.unscoped.filter(team=locked)
            rows._raw_delete(rows.db)  # millions of points need not pass through Python
        locked.delete()
    transaction.on_commit(partial(remove_folder, str(team.pk)))
    enqueue_on_commit("portal.team_end.remove_folder", str(team.pk))  # a second chance, should this process die


def remove_folder(team_id: str) -> None:
    """Remove the files of a team that is gone; of one that exists, nothing."""
    if Team.objects.filter(pk=UUID(team_id)).exists():
        logger.error("team %s exists, so its folder stays", team_id)
        return
    folder = Path(settings.DATA_DIR) / "teams" / str(UUID(team_id))
    if folder.is_dir():
        shutil.rmtree(folder)


def _leaves() -> list[type[TeamOwned]]:
    """Return the team-owned models that no other model points to."""
    return [
        model
        for model in apps.get_models()
        if issubclass(model, TeamOwned) and not model._meta.related_objects and not model._meta.many_to_many
    ]

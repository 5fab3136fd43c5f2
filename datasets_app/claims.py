"""Work on a row that a queue message starts: who may take it, and what becomes of it when its worker is lost.

The row has `claim`, `heartbeat_at` and `status`. Every report of a worker is a conditional update that names its
claim, so a worker that was given up for dead changes nothing.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Generic, TypeVar
from uuid import UUID

from django.db.models import F, Q, QuerySet
from django.utils import timezone

from portal.queue import enqueue_on_commit
from portal.rls import all_teams
from portal.scoping import TeamOwned

logger = logging.getLogger(__name__)
Row = TypeVar("Row", bound=TeamOwned)


class ClaimLost(Exception):
    """The work was called off, or another worker has taken over: stop and write nothing."""


def remove_leftovers(folder: Path) -> None:
    """Remove what killed workers left in the folder of a row. Call it with a claim on the row, before work begins."""
    for left in folder.glob("work-*"):
        shutil.rmtree(left, ignore_errors=True)


@dataclass(frozen=True)
class Claims(Generic[Row]):
    """How the rows of one model are worked on: `task` is queued with the value of `key`.

    `open` are the states in which there is work to do.
    """

    model: type[Row]
    open: tuple[str, ...]
    task: str
    stalled_after: timedelta
    called: str
    key: str = "pk"
    timeout_s: int | None = None

    def enqueue(self, key: UUID) -> None:
        """Queue the work on a row when the current transaction commits."""
        enqueue_on_commit(self.task, str(key), timeout_s=self.timeout_s)

    def team_of(self, pk: UUID) -> UUID | None:
        """Return whose row it is, None if it is gone: the queue knows only its id."""
        with all_teams("a row of the queue's leads to its team"):
            return self.model.unscoped.filter(pk=pk).values_list("team_id", flat=True).first()

    def take(self, pk: UUID, claim: UUID, *, attempts: int, **started: Any) -> bool:
        """Claim a row that nobody works on, set `started` on it and count the attempt, up to `attempts` of them.

        Call it in the row scope of the team. Returns whether the row is ours now.
        """
        free = self.unclaimed(pk).filter(attempts__lt=attempts)
        return bool(free.update(claim=claim, attempts=F("attempts") + 1, heartbeat_at=timezone.now(), **started))

    def unclaimed(self, pk: UUID) -> QuerySet[Row]:
        """Return the row if its work is open and nobody does it."""
        return self._open().filter(Q(claim__isnull=True) | self._is_silent(), pk=pk)

    def requeue_stalled(self, **back: Any) -> int:
        """Queue work again whose message or worker was lost, and set `back` on its rows; return how many.

        Call it about once a minute.
        """
        with all_teams("the sweep looks after every team's work"):
            stalled = self._open().filter(self._is_silent()).select_for_update(skip_locked=True)
            lost = dict(stalled.values_list("pk", self.key))
            # Noting the time keeps the next sweep from queueing the same message again while this one waits.
            self.model.unscoped.filter(pk__in=lost).update(heartbeat_at=timezone.now(), claim=None, **back)
            for key in lost.values():
                self.enqueue(key)
        if lost:
            logger.warning("%d stalled %s queued again", len(lost), self.called)
        return len(lost)

    def _open(self) -> QuerySet[Row]:
        return self.model.unscoped.filter(status__in=self.open)

    def _is_silent(self) -> Q:
        return Q(heartbeat_at__isnull=True) | Q(heartbeat_at__lt=timezone.now() - self.stalled_after)

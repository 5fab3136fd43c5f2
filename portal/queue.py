"""The one way to put work on the queue."""

from __future__ import annotations

from functools import partial

from django.db import transaction
from django_q.tasks import async_task


def enqueue_on_commit(task: str, *ids: str, cluster: str | None = None) -> None:
    """Queue `task` (a dotted name) when the current transaction commits.

    Only ids cross the queue: the row is the truth, the message a hint that may come twice or never.
    """
    options = {"cluster": cluster} if cluster else {}
    transaction.on_commit(partial(async_task, task, *map(str, ids), q_options=options))

"""The one way to put work on the queue."""

from __future__ import annotations

from functools import partial

from django.db import transaction
from django_q.tasks import async_task

# For tasks that work through a whole table. Their claims and heartbeats show that they live, not the queue's clock.
LONG_S = 2 * 3600


def enqueue_on_commit(task: str, *ids: str, cluster: str | None = None, timeout_s: int | None = None) -> None:
    """Queue `task` (a dotted name) when the current transaction commits; past its time it is ended by force.

    Only ids cross the queue: the row is the truth, the message a hint that may come twice or never.
    """
    options: dict[str, str | int] = {}
    if cluster:
        options["cluster"] = cluster
    if timeout_s:
        options["timeout"] = timeout_s
    transaction.on_commit(partial(async_task, task, *map(str, ids), q_options=options))

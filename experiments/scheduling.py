"""Which run starts next, and where: fair share between teams over the free slots of live nodes.

A team whose runs hold fewer slots comes first; among equals the one that used the GPUs less lately. Both are divided
by the team's weight. Within a team, priority and then age decide. A run that had begun and was interrupted, by a node
that was shut down or lost, goes before all of them: its turn is not over. Nor is that of a run on several GPUs whose
turn came when no node had so many free: one node is kept for it, where nothing else starts until it has room, so
small runs cannot keep it waiting for ever.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from django.conf import settings
from django.db import connection
from django.db.models import F
from django.db.models.functions import Coalesce, Now
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from experiments import estimates, placing
from experiments.models import Run
from portal import platform_state
from portal.models import Node
from portal.queue import enqueue_on_commit
from portal.rls import all_teams

if TYPE_CHECKING:
    from portal.models import Team

# Any fixed number: PostgreSQL lets one holder in at a time.
_DISPATCH_LOCK = 4711
# A node that was given a run has this many lease times to start its supervisor before the run goes back to the queue.
_START_LEASES = 3

# Further back in the queue nobody can say when a run will start.
_SIMULATED_RUNS = 500

# Per team: how many runs are at work, how many slots they hold, and GPU seconds of the last week, each counting less
# the older it is (by a factor e per day), so that a heavy night is forgiven but not forgotten.
_SHARES = """
    SELECT team_id,
           count(*) FILTER (WHERE status IN ('assigned', 'running')) AS active,
           coalesce(sum(gpus) FILTER (WHERE status IN ('assigned', 'running')), 0) AS held,
           sum(gpu_seconds * exp(-extract(epoch FROM now() - coalesce(ended_at, now())) / 86400.0)) AS recent_s
    FROM experiments_run
    WHERE ended_at IS NULL OR ended_at > now() - interval '7 days'
    GROUP BY team_id
"""
# What an active run is taken to need of its team's GPU time until its trainer can tell, in seconds.
_PROMISED_S = 600
# Teams with waiting runs whose GPU time of this month is used up or promised to their active runs: what is left is
# given to one run and not to all that could start at this moment. A run that ends gives back what it did not need.
_SPENT = f"""
    SELECT team_id
    FROM (SELECT DISTINCT team_id FROM experiments_run WHERE status = 'queued') AS waiting
    LEFT JOIN (
        SELECT team_id, sum(gpus * coalesce(eta_s, {_PROMISED_S})) AS seconds FROM experiments_run
        WHERE status IN ('assigned', 'running') GROUP BY team_id
    ) AS promised USING (team_id)
    WHERE portal_gpu_seconds(team_id, now()) + coalesce(promised.seconds, 0)
        >= portal_limit(team_id, 'gpu_seconds_per_month')
"""  # noqa: S608 -- constants only
# Passed over are runs for which a node is kept: each counts as if it worked, else its team's own small runs would be
# started beside it up to the team's limit, and it never.
_PICK = f"""
    WITH shares AS ({_SHARES}), spent AS MATERIALIZED ({_SPENT})
    SELECT run.id, run.gpus
    FROM experiments_run run
    JOIN portal_team team ON team.id = run.team_id
    LEFT JOIN shares ON shares.team_id = run.team_id
    WHERE run.status = 'queued' AND NOT run.is_held
        AND coalesce(shares.active, 0) + (
            SELECT count(*) FROM experiments_run passed
            WHERE passed.id = ANY(%(passed)s) AND passed.team_id = run.team_id
        ) < team.max_concurrent_runs
        AND team.archived_at IS NULL AND run.team_id NOT IN (SELECT team_id FROM spent)
        AND run.gpus <= %(most_gpus)s AND run.id <> ALL(%(passed)s)
    ORDER BY run.started_at IS NULL AND run.turn_came_at IS NULL,
             coalesce(shares.held, 0)::float / team.weight, coalesce(shares.recent_s, 0) / team.weight,
             run.priority DESC, run.queued_at, run.id
    LIMIT 1
    FOR UPDATE OF run SKIP LOCKED
"""  # noqa: S608 -- constants only
# The order in which waiting runs would start if no running one ended: a team's second run counts as if its first
# one had started already. Runs over their team's limit, or of a team without GPU time, cannot start and stand last.
_PLACES = f"""
    WITH shares AS ({_SHARES}), spent AS MATERIALIZED ({_SPENT}), waiting AS (
        SELECT run.*, run.team_id IN (SELECT team_id FROM spent) AS is_spent, team.weight,
               CASE WHEN run.team_id IN (SELECT team_id FROM spent) THEN 0 ELSE team.max_concurrent_runs END
                   AS max_concurrent_runs,
               coalesce(shares.recent_s, 0) AS recent_s,
               run.started_at IS NULL AND run.turn_came_at IS NULL AS is_new,
               coalesce(shares.active, 0) - 1 + row_number() OVER team_order AS before_it,
               coalesce(shares.held, 0) - run.gpus + sum(run.gpus) OVER team_order AS held_before_it
        FROM experiments_run run
        JOIN portal_team team ON team.id = run.team_id
        LEFT JOIN shares ON shares.team_id = run.team_id
        WHERE run.status = 'queued' AND NOT run.is_held
        WINDOW team_order AS (
            PARTITION BY run.team_id
            ORDER BY run.started_at IS NULL AND run.turn_came_at IS NULL, run.priority DESC, run.queued_at, run.id
        )
    ), placed AS (
        SELECT id, is_spent, max_concurrent_runs, before_it >= max_concurrent_runs AS over_limit, row_number() OVER (
            ORDER BY before_it >= max_concurrent_runs, is_new, held_before_it::float / weight,
                     recent_s / weight, priority DESC, queued_at, id
        ) AS place
        FROM waiting
    )
    SELECT id, place, over_limit, max_concurrent_runs, is_spent FROM placed ORDER BY place
"""  # noqa: S608 -- constants only


def dispatch() -> int:
    """Give free slots of live nodes to waiting runs, fairly, until either runs out; return how many were given."""
    given = 0
    while _assign_next():
        given += 1
    return given


def _assign_next() -> bool:
    with all_teams("teams share the nodes, so all their runs are weighed against each other"):
        with connection.cursor() as cursor:
            # Waits instead of skipping: the holder may have looked just before the run that we come for was queued.
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_DISPATCH_LOCK])
        if not platform_state.runs_may_start():
            return False
        free = placing.free_slots()
        passed: list[uuid.UUID] = []
        while any(each.slots for each in free):
            waiting = _next_run(max(each.node.most_gpus_of_a_run for each in free), passed)
            if waiting is None:
                return False
            run_id, gpus = waiting
            if place := placing.find_place(free, gpus):
                _assign(run_id, place[0].node, place[1])
                return True
            Run.unscoped.filter(pk=run_id).update(turn_came_at=Coalesce(F("turn_came_at"), Now()))
            placing.keep_free(free, gpus)
            passed.append(run_id)
    return False


def _assign(run_id: uuid.UUID, node: Node, slots: list[int]) -> None:
    token = uuid.uuid4()
    Run.unscoped.filter(pk=run_id).update(
        status=Run.Status.ASSIGNED,
        node=node,
        slot=slots[0],
        more_slots=slots[1:],
        turn_came_at=None,
        attempt=F("attempt") + 1,
        lease_token=token,
        lease_until=Now() + timedelta(seconds=_START_LEASES * settings.LEASE_SECONDS),
    )
    enqueue_on_commit("gpu_worker.tasks.start_run", str(run_id), str(token), cluster=f"gpu-{node.name}")


def _next_run(most_gpus: int, passed: list[uuid.UUID]) -> tuple[uuid.UUID, int] | None:
    """Return the run whose turn it is, and its number of GPUs; those that were passed over, or are too large, wait."""
    with connection.cursor() as cursor:
        cursor.execute(_PICK, {"most_gpus": most_gpus, "passed": passed})
        row: tuple[uuid.UUID, int] | None = cursor.fetchone()
    return row


# --- what people are told ----------------------------------------------------------------------------------------


class Waiting(StrEnum):
    """Why a queued run does not run yet."""

    MAINTENANCE = "maintenance"
    NO_LIVE_NODE = "no_live_node"
    TEAM_LIMIT = "team_limit"
    GPU_TIME_SPENT = "gpu_time_spent"
    NO_NODE_SO_LARGE = "no_node_so_large"
    SLOTS_BUSY = "slots_busy"
    GPUS_BUSY = "gpus_busy"
    STARTING = "starting"


@dataclass(frozen=True)
class QueuePlace:
    """A waiting run with its place in the queue of all teams (1 is next), why it waits and when it will probably start.

    `starts_in_s` is None where nobody can say.
    """

    run: Run
    place: int
    reason: Waiting
    sentence: str
    starts_in_s: float | None


def queue_places(team: Team | None) -> list[QueuePlace]:
    """Return the team's waiting runs in the order in which they will start; without a team, those of all teams."""
    with all_teams("a place in the queue counts the runs of all teams before it"):
        queue = _queue_of_all_teams()
        room = _Room.now()
        starts = room.expected_starts(queue)
        reasons = room.reasons(queue)
    return [
        QueuePlace(each.run, each.place, reason, _sentence(reason, each), starts.get(each.run.pk))
        for each, reason in zip(queue, reasons, strict=True)
        if team is None or each.run.team_id == team.pk
    ]


def waiting_place(run: Run) -> QueuePlace | None:
    """Return where a queued run stands; None if it does not wait."""
    return next((place for place in queue_places(run.team) if place.run.pk == run.pk), None)


@dataclass(frozen=True)
class _Queued:
    run: Run
    place: int
    over_limit: bool
    team_limit: int
    is_spent: bool


def _queue_of_all_teams() -> list[_Queued]:
    with connection.cursor() as cursor:
        cursor.execute(_PLACES)
        rows = cursor.fetchall()
    related = ("experiment", "base_model", "created_by", "dataset_version", "team")
    # Of the rows to learn from, only their number counts here; report and changes hold them by the thousand.
    known = Run.unscoped.select_related(*related).defer("dataset_version__report", "dataset_version__changes")
    runs = known.in_bulk([row[0] for row in rows])
    # One that is not there was deleted in this moment.
    return [_Queued(runs[pk], *facts) for pk, *facts in rows if pk in runs]


@dataclass(frozen=True)
class _Room:
    """The slots of live nodes that take new runs, and what holds them."""

    free: list[placing.FreeSlots]
    active: list[Run]
    is_maintenance: bool

    @classmethod
    def now(cls) -> _Room:
        free = placing.free_slots()
        nodes = [each.node for each in free]
        active = Run.unscoped.filter(status__in=Run.ACTIVE, node__in=nodes).select_related("dataset_version")
        return cls(free, list(active), is_maintenance=not platform_state.runs_may_start())

    def reasons(self, queue: list[_Queued]) -> list[Waiting]:
        """Return for each waiting run why it waits, as the next dispatch will find."""
        most = max((each.node.most_gpus_of_a_run for each in self.free), default=0)
        left = [placing.FreeSlots(each.node, list(each.slots)) for each in self.free]
        return [self._reason(queued, most, left) for queued in queue]

    def _reason(self, queued: _Queued, most: int, left: list[placing.FreeSlots]) -> Waiting:
        """Return why one waits; it takes what it will get of what those before it have left."""
        gpus = queued.run.gpus
        if self.is_maintenance:
            return Waiting.MAINTENANCE
        if queued.is_spent:
            return Waiting.GPU_TIME_SPENT
        if not self.free:
            return Waiting.NO_LIVE_NODE
        if queued.over_limit:
            return Waiting.TEAM_LIMIT
        if gpus > max(1, most):
            return Waiting.NO_NODE_SO_LARGE
        if place := placing.find_place(left, gpus):
            place[0].slots = [slot for slot in place[0].slots if slot not in place[1]]
            return Waiting.STARTING
        placing.keep_free(left, gpus)
        return Waiting.SLOTS_BUSY if gpus == 1 else Waiting.GPUS_BUSY

    def expected_starts(self, queue: list[_Queued]) -> dict[uuid.UUID, float]:
        pace = estimates.seconds_per_row_visit()
        return estimates.expected_starts(
            [
                estimates.WaitingRun(
                    each.run.pk,
                    each.run.team_id,
                    each.team_limit,
                    estimates.expected_seconds(each.run, pace),
                    each.run.gpus,
                )
                for each in queue[:_SIMULATED_RUNS]
            ],
            [estimates.HeldSlot(run.team_id, estimates.seconds_left(run, pace), run.gpus) for run in self.active],
            sum(len(each.slots) for each in self.free),
        )


def _sentence(reason: Waiting, queued: _Queued) -> str:
    place, team, gpus = queued.place, queued.run.team, queued.run.gpus
    if reason == Waiting.MAINTENANCE:
        return _("The portal is in maintenance. The run starts when it is over.")
    if reason == Waiting.NO_LIVE_NODE:
        return _("No GPU node is online and takes new runs. The run starts as soon as one does.")
    if reason == Waiting.GPU_TIME_SPENT:
        return _(
            "Your team's GPU time of this month is used, or promised to the runs that are at work. The run starts when"
            " they leave some of it, when the next month begins (UTC), or when a platform admin raises the limit."
        )
    if reason == Waiting.TEAM_LIMIT:
        limit = team.max_concurrent_runs
        return ngettext(
            "Your team runs one training at a time. This one starts when the one before it has ended.",
            "Your team runs at most %(limit)d trainings at a time. This one starts when another has ended.",
            limit,
        ) % {"limit": limit}
    if reason == Waiting.STARTING:
        return _("It starts in a moment.")
    if reason == Waiting.NO_NODE_SO_LARGE:
        return _("No node that takes runs now gives one run %(gpus)d GPUs. It starts when one does.") % {"gpus": gpus}
    if reason == Waiting.GPUS_BUSY and queued.run.turn_came_at is not None:
        return _("It is its turn: a node is kept for it, and the run starts when %(gpus)d GPUs of it are free.") % {
            "gpus": gpus
        }
    if reason == Waiting.GPUS_BUSY:
        return _(
            "It needs %(gpus)d GPUs of one node at once. Place %(place)d in the queue of all teams; when it is its"
            " turn, a node is kept for it."
        ) % {"gpus": gpus, "place": place}
    return _("All slots are busy. Place %(place)d in the queue of all teams.") % {"place": place}

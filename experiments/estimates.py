"""When a waiting run will probably start: past runs tell how long trainings take, a simulation of the slots the rest.

An estimate, not a promise: runs that are submitted later may come first, and others end early.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from uuid import UUID

from django.db import connection

from experiments.hyperparameters import Hyperparameters
from experiments.models import Run
from experiments.trials import STEPS

# Seconds of a GPU for one reading of one row, evaluation and start-up included: the middle of the month's runs.
# All teams' runs are taken together: how fast the machines are is nobody's secret.
_PACE = """
    SELECT base_model_id, percentile_cont(0.5) WITHIN GROUP (
        ORDER BY gpu_seconds / (total_steps * (hyperparameters->>'batch_size')::float)
    )
    FROM experiments_run
    WHERE status = 'succeeded' AND kind = 'training' AND total_steps > 0
        AND gpu_seconds > 0 AND ended_at > now() - interval '30 days'
    GROUP BY base_model_id
"""


# A trial is over after its steps, and most often sooner than this time.
_PREFLIGHT_S = 300.0
# A guess for one that answers a few hundred rows: how long answers get is known when they are there.
_EVALUATION_S = 300.0


@dataclass(frozen=True)
class WaitingRun:
    """What the simulation knows of a queued run. `seconds`: how long it will hold its slots, None if nobody knows."""

    id: UUID
    team_id: UUID
    team_limit: int
    seconds: float | None
    gpus: int = 1


@dataclass(frozen=True)
class HeldSlot:
    """Slots in use by one run. `seconds`: until they are free, None if nobody knows."""

    team_id: UUID
    seconds: float | None
    gpus: int = 1


def expected_starts(queue: Sequence[WaitingRun], held: Sequence[HeldSlot], free_slots: int) -> dict[UUID, float]:
    """Return in how many seconds each waiting run will start; a run for which nobody can say is left out.

    `queue` is in the order in which runs get slots. A run whose team is at its limit lets others pass, one that waits
    for several GPUs does not. All slots count as if they were one node's.
    """
    order = count()  # equal times: first come, first served, and teams are never compared
    events: list[tuple[float, int, UUID | None, int]] = [(0.0, next(order), None, free_slots)]
    events += [(slot.seconds, next(order), slot.team_id, slot.gpus) for slot in held if slot.seconds is not None]
    heapq.heapify(events)
    active = Counter(slot.team_id for slot in held)
    waiting, starts, idle = list(queue), dict[UUID, float](), 0
    while events and waiting:
        now, _order, team, freed = heapq.heappop(events)
        idle += freed
        if team is not None:
            active[team] -= 1
        while idle:
            following = next((run for run in waiting if active[run.team_id] < run.team_limit), None)
            if following is None or following.gpus > idle:
                break
            waiting.remove(following)
            idle -= following.gpus
            active[following.team_id] += 1
            starts[following.id] = now
            if following.seconds is not None:
                heapq.heappush(events, (now + following.seconds, next(order), following.team_id, following.gpus))
    return starts


def seconds_per_row_visit() -> dict[int, float]:
    """Return the usual pace for each base model that was trained lately. Call it in a scope that sees all teams."""
    with connection.cursor() as cursor:
        cursor.execute(_PACE)
        return dict(cursor.fetchall())


def expected_seconds(run: Run, pace: Mapping[int, float]) -> float | None:
    """Return how long a run holds a slot from its start, by the pace of its base model; None without one.

    `run.dataset_version` is read.
    """
    seconds_per_visit = pace.get(run.base_model_id)
    if seconds_per_visit is None:
        return None
    if run.is_evaluation:
        return _EVALUATION_S
    if run.is_preflight:
        return min(_PREFLIGHT_S, STEPS * float(run.hyperparameters["batch_size"]) * seconds_per_visit / run.gpus)
    try:
        chosen = Hyperparameters.model_validate(run.hyperparameters)
    except ValueError:  # what may be chosen has changed since
        return None
    return seconds_for(chosen, run.dataset_version.train_rows, seconds_per_visit, done_steps=run.checkpoint_step)


def seconds_for(chosen: Hyperparameters, rows: int, seconds_per_visit: float, *, done_steps: int = 0) -> float:
    """Return how long a training over `rows` rows holds its slots, at the usual pace of its base model."""
    steps_left = max(0, chosen.total_steps(rows) - done_steps)
    seconds = steps_left * chosen.batch_size * seconds_per_visit / chosen.gpus
    return min(seconds, chosen.max_minutes * 60) if chosen.max_minutes else seconds


def cost_of(seconds: float | None, price_per_hour: float) -> float | None:
    """Return what node time costs; None where the time is unknown or nobody has named a price."""
    return seconds / 3600 * price_per_hour if seconds is not None and price_per_hour else None


def seconds_left(run: Run, pace: Mapping[int, float]) -> float | None:
    """Return how long a running run still holds its slot: by its own report if it has one."""
    if run.eta_s is not None:
        return run.eta_s
    expected = expected_seconds(run, pace)
    spent = run.duration.total_seconds() if run.duration else 0.0
    return max(0.0, expected - spent) if expected is not None else None

"""What machines report about runs. Every change asks for the lease: who lost it changes nothing.

All times are the database's, since the clocks of nodes differ. Every function is one transaction of its own.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable
from pathlib import Path

from django.conf import settings
from django.db import connection
from django.db.models import F, QuerySet
from django.db.models.functions import Coalesce, Greatest, Now
from django.utils.translation import gettext as _

from datasets_app import row_origins
from datasets_app.models import DatasetVersion, Split
from experiments import endings, results, scheduling, sweeps
from experiments.leases import (
    PLACELESS,
    RELEASED,
    Lease,
    LeaseLost,
    change,
    charged,
    held_by,
    renewed,
    stop_requested,
    with_token,
)
from experiments.measurements import write_digest
from experiments.models import Run, RunEvent
from experiments.run_events import Event, digest
from portal import audit
from portal.access import may_still_edit
from portal.actors import Actor
from portal.queue import enqueue_on_commit
from portal.rls import all_teams

logger = logging.getLogger(__name__)

_REASON = "machines report on the runs of all teams"
_SUPERVISOR = Actor.system("supervisor")
_SWEEP = Actor.system("sweep")

# --- beginning ---------------------------------------------------------------------------------------------------


def is_waiting_for(lease: Lease) -> bool:
    """Tell whether the run still waits for a supervisor with this lease; a late or doubled message hears no."""
    with all_teams(_REASON):
        return with_token(lease).filter(status=Run.Status.ASSIGNED).exists()


def claim_run(lease: Lease) -> Run | None:
    """Begin work on a run; exactly one caller gets it, with everything that a job folder needs, all others None.

    A run whose submitter may no longer train for the team fails here instead.
    """
    with all_teams(_REASON):
        waiting = with_token(lease).filter(status=Run.Status.ASSIGNED)
        if not waiting.update(
            status=Run.Status.RUNNING,
            phase="preparing",
            started_at=Coalesce(F("started_at"), Now()),
            lease_until=renewed(),
        ):
            return None
        run = load_run(lease.run_id)
        if may_still_edit(run.team, run.created_by):
            return run
        message = _("The person who submitted this run may no longer train models for the team. Submit it again.")
        _fail(run, held_by(lease), code="submitter_lost_access", message=message, actor=_SUPERVISOR)
        return None


# --- on the way --------------------------------------------------------------------------------------------------


def renew_lease(lease: Lease) -> bool:
    """Prolong the lease and charge the time since the last renewal; return whether the run shall be stopped.

    A lease that ran out can be renewed as long as nobody else was given the run. Raises: LeaseLost.
    """
    with all_teams(_REASON):
        change(lease, gpu_seconds=charged(), lease_until=renewed())
        return stop_requested(lease)


def record_events(lease: Lease, events: Iterable[Event], *, span: tuple[int, int] | None = None) -> bool:
    """Write what child processes reported; return whether the run shall be stopped.

    `span`: from and to which byte of the event file the events were read. The end is kept in the same transaction, so
    each event is written once, whatever is killed in between and however often the call is repeated.
    Raises: LeaseLost; nothing is written then.
    """
    news = digest(events)
    with all_teams(_REASON):
        if span and span[0] < span[1] and held_by(lease).filter(events_offset__gte=span[1]).exists():
            return stop_requested(lease)  # an earlier call got through, but its caller never heard of it
        changes = {
            "phase": news.phase,
            "step": news.step,
            "total_steps": news.total_steps,
            "eta_s": news.eta_s,
            "checkpoint_step": news.checkpoint_step,
            "events_offset": span[1] if span else None,
        }
        # Also without changes: the update is what asks for the lease, and locks the row against the sweep.
        change(lease, lease_token=lease.token, **{name: value for name, value in changes.items() if value is not None})
        team_id = held_by(lease).values_list("team_id", flat=True).get()
        write_digest(lease.run_id, team_id, news)
        if any(point.get("validation_loss") is not None for point in news.points.values()):
            sweeps.stop_if_losing(lease.run_id)
        return stop_requested(lease)


def note(lease: Lease, message: str, *, level: str = "info", kind: str = "supervisor") -> None:
    """Add a line to the run's log. Raises: LeaseLost."""
    with all_teams(_REASON):
        change(lease, lease_token=lease.token)
        _say(load_run(lease.run_id), message, level=level, kind=kind)


def note_crash(lease: Lease, message: str) -> bool:
    """Count a child process that was killed as an attempt; return whether there may be another. Raises: LeaseLost."""
    with all_teams(_REASON):
        change(lease, lease_token=lease.token)
        _say(load_run(lease.run_id), message, level="warning", kind="crash")
        may_go_on = held_by(lease).filter(attempt__lt=F("max_attempts"))
        return may_go_on.update(attempt=F("attempt") + 1) == 1


# --- the end -----------------------------------------------------------------------------------------------------


def finish_run(lease: Lease, *, adapter: Path, step: int, predictions: Path | None, split: Split) -> None:
    """End a run well: its adapter is kept, and its answers to the held-out rows are judged if there are any.

    Answers that cannot be judged cost the run its quality report, not its adapter.
    Raises: LeaseLost, results.IncompleteAdapter.
    """
    renew_lease(lease)  # asks for the lease before any file is touched, and gives us time for them
    run = load_run(lease.run_id)
    placed = results.place_adapter(run, adapter)
    renew_lease(lease)
    judged = _judge(run, predictions, split)
    with all_teams(_REASON):
        _end(lease, Run.Status.SUCCEEDED)
        kept = results.record_adapter(run, placed, step=step)
        if judged:
            results.record_evaluation(run, judged)
        elif predictions:
            _say(run, _("The quality report could not be made; the adapter is complete."), level="warning")
        _say(run, _("The run has succeeded."))
        audit.record(run.team, _SUPERVISOR, "run.succeeded", run, adapter=str(kept.pk), step=step)
        if run.deploy_as:
            enqueue_on_commit("deployments.tasks.deploy_finished_run", str(run.pk))


def finish_preflight(lease: Lease) -> None:
    """End a trial well: what it measured is known, and nothing else is kept. Raises: LeaseLost."""
    with all_teams(_REASON):
        _end(lease, Run.Status.SUCCEEDED)
        run = load_run(lease.run_id)
        _say(run, _("The trial has ended. Nothing that it learned is kept."))
        audit.record(run.team, _SUPERVISOR, "run.succeeded", run, kind=run.kind)


def finish_evaluation(lease: Lease, *, predictions: Path, split: Split) -> None:
    """End an evaluation of kept weights: what they answered is judged and kept, or it has failed. Raises: LeaseLost."""
    renew_lease(lease)
    run = load_run(lease.run_id)
    judged = _judge(run, predictions, split)
    with all_teams(_REASON):
        if judged is None:
            change(lease, gpu_seconds=charged())
            message = _("The answers could not be judged. Start the evaluation again.")
            _fail(run, held_by(lease), code="internal", message=message, actor=_SUPERVISOR)
            return
        _end(lease, Run.Status.SUCCEEDED)
        results.record_evaluation(run, judged)
        _say(run, _("The evaluation has ended."))
        audit.record(run.team, _SUPERVISOR, "run.succeeded", run, kind=run.kind)


def _origins(version: DatasetVersion, split: Split) -> list[str]:
    try:
        with all_teams(_REASON):
            return row_origins.origins(version, split)
    except (OSError, ValueError, LookupError):  # figures by source are the least of a report
        logger.exception("version %s: where its rows came from could not be read", version.pk)
        return []


def _judge(run: Run, predictions: Path | None, split: Split) -> results.Judged | None:
    if predictions is None:
        return None
    try:
        return results.judge(predictions, split, run.dataset_version, _origins(run.dataset_version, split))
    except Exception:  # whatever is wrong with the answers, hours of training are worth more
        logger.exception("run %s: the predictions could not be judged", run.pk)
        return None


def stop_run(lease: Lease, *, adapter: Path | None, step: int) -> None:
    """End a run that was asked to stop; what it learned is kept if its trainer could save it. Raises: LeaseLost."""
    renew_lease(lease)
    run = load_run(lease.run_id)
    placed = results.place_adapter(run, adapter) if adapter and results.is_whole_adapter(adapter) else None
    with all_teams(_REASON):
        _end(lease, Run.Status.CANCELLED)
        if placed:
            results.record_adapter(run, placed, step=step)
            _say(run, _("Stopped at step %(step)d. The adapter learned so far is kept.") % {"step": step})
        elif run.is_evaluation:
            _say(run, _("Stopped before all rows were answered; there is no report."))
        else:
            _say(run, _("Stopped before anything was learned that could be kept."))
        audit.record(run.team, _SUPERVISOR, "run.cancelled", run, step=step, adapter_kept=placed is not None)


def pause_run(lease: Lease) -> bool:
    """Put a run that was asked to pause back into the queue, where it is held; return whether it was.

    It goes on from its last checkpoint when somebody lets it. Raises: LeaseLost.
    """
    with all_teams(_REASON):
        change(lease, gpu_seconds=charged())
        if not held_by(lease).filter(is_held=True).exists():
            return False
        _hold(load_run(lease.run_id), actor=_SUPERVISOR)
        return True


def _hold(run: Run, *, actor: Actor) -> None:
    Run.unscoped.filter(pk=run.pk).update(
        status=Run.Status.QUEUED,
        **PLACELESS,
        turn_came_at=None,
        attempt=Greatest(F("attempt") - 1, 0),
        cancel_requested_at=None,
        **RELEASED,
    )
    _say(run, _("Paused at step %(step)d.") % {"step": run.checkpoint_step})
    audit.record(run.team, actor, "run.paused", run, step=run.checkpoint_step)
    enqueue_on_commit("experiments.tasks.dispatch")


def fail_run(lease: Lease, *, code: str, message: str) -> None:
    """End a run that cannot succeed; `message` tells people what happened and what to do. Raises: LeaseLost."""
    with all_teams(_REASON):
        change(lease, gpu_seconds=charged())
        _fail(load_run(lease.run_id), held_by(lease), code=code, message=message, actor=_SUPERVISOR)


def release_run(lease: Lease, message: str, *, burn_attempt: bool = False) -> None:
    """Give a run back to the queue, to go on from its last checkpoint; a run asked to stop is cancelled instead.

    `burn_attempt`: what happened may happen again, so it counts; out of attempts, the run fails. Raises: LeaseLost.
    """
    with all_teams(_REASON):
        change(lease, gpu_seconds=charged())
        _give_back(load_run(lease.run_id), message, actor=_SUPERVISOR, burn_attempt=burn_attempt)


# --- those that were lost ----------------------------------------------------------------------------------------


def sweep() -> int:
    """Take runs away from supervisors that stopped renewing, and start what can start; return how many were taken.

    Any number of machines may call this at any time.
    """
    swept = 0
    with all_teams(_REASON):
        lost = Run.unscoped.filter(status__in=Run.ACTIVE, lease_until__lt=Now()).order_by("lease_until")
        if not _database_is_fresh():
            lost = lost.select_related("team", "experiment", "node")
            for run in lost.select_for_update(skip_locked=True, of=("self",)):
                _sweep_one(run)
                swept += 1
    scheduling.dispatch()
    return swept


def _database_is_fresh() -> bool:
    """Tell whether the server has just started: nobody could renew while it was away, so nobody is lost yet."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT now() - pg_postmaster_start_time() < make_interval(secs => %s)", [settings.LEASE_SECONDS]
        )
        return bool(cursor.fetchone()[0])


def _sweep_one(run: Run) -> None:
    where = {"node": str(run.node or "?")}
    if run.status == Run.Status.ASSIGNED:
        message = _("The node %(node)s did not start the run in time; it waits for a slot again.") % where
        _give_back(run, message, actor=_SWEEP, burn_attempt=False)
    else:
        message = _("The node %(node)s was lost; the run goes on from its last checkpoint.") % where
        _give_back(run, message, actor=_SWEEP, burn_attempt=True)
    logger.warning("run %s was taken away from node %s in attempt %d", run.pk, where["node"], run.attempt)


def _give_back(run: Run, message: str, *, actor: Actor, burn_attempt: bool) -> None:
    """Bring a locked, active run back to the queue, or to its end if it cannot or shall not go on."""
    this_run = Run.unscoped.filter(pk=run.pk)
    if run.is_held:
        _hold(run, actor=actor)
        return
    if run.cancel_requested_at is not None:
        this_run.update(status=Run.Status.CANCELLED, ended_at=Now(), **RELEASED)
        endings.ended(run.pk)
        _say(run, _("The run was asked to stop and its node was lost; it does not start again."))
        audit.record(run.team, actor, "run.cancelled", run)
    elif burn_attempt and run.attempt >= run.max_attempts:
        text = _("The run was interrupted %(count)d times, so it was given up. The last time: %(message)s")
        _fail(run, this_run, code="interrupted", message=text % {"count": run.attempt, "message": message}, actor=actor)
    else:
        attempt = F("attempt") if burn_attempt else Greatest(F("attempt") - 1, 0)
        this_run.update(status=Run.Status.QUEUED, attempt=attempt, **PLACELESS, **RELEASED)
        _say(run, message, level="warning")
        audit.record(run.team, actor, "run.requeued", run, attempt=run.attempt, step=run.checkpoint_step)
    enqueue_on_commit("experiments.tasks.dispatch")


# --- pieces ------------------------------------------------------------------------------------------------------


def load_run(run_id: uuid.UUID) -> Run:
    """Return a run with everything around it that its supervisor needs, so that no further query is necessary."""
    with all_teams(_REASON):
        whole = Run.unscoped.select_related("team", "experiment", "base_model", "node", "created_by")
        whole = whole.select_related("continue_from__experiment", "continue_from__adapter__team", "start_adapter__team")
        return whole.select_related("dataset_version__dataset", "dataset_version__team").get(pk=run_id)


def earlier_runs_like(run: Run) -> list[Run]:
    """Return the team's last good runs with the same rows and the same base model, newest first."""
    with all_teams(_REASON):
        alike = Run.unscoped.filter(
            team=run.team,
            dataset_version=run.dataset_version,
            base_model=run.base_model,
            base_revision=run.base_revision,
            status=Run.Status.SUCCEEDED,
            kind=run.kind,  # those of another kind were asked other rows
        )
        return list(alike.select_related("team").order_by("-ended_at")[:5])


def _end(lease: Lease, status: Run.Status) -> None:
    change(lease, status=status, ended_at=Now(), gpu_seconds=charged(), **RELEASED)
    endings.ended(lease.run_id)
    enqueue_on_commit("experiments.tasks.dispatch")


def _fail(run: Run, rows: QuerySet[Run], *, code: str, message: str, actor: Actor) -> None:
    changed = rows.update(
        status=Run.Status.FAILED,
        ended_at=Now(),
        error_code=code,
        error_message=message,
        **RELEASED,
    )
    if not changed:
        raise LeaseLost(f"run {run.pk}")
    endings.ended(run.pk)
    _say(run, message, level="error")
    audit.record(run.team, actor, "run.failed", run, outcome="failed", code=code)
    enqueue_on_commit("experiments.tasks.dispatch")


def _say(run: Run, message: str, *, level: str = "info", kind: str = "supervisor") -> None:
    RunEvent(team=run.team, run=run, level=level, kind=kind, message=message).save(force_insert=True)

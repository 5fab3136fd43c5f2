"""Pausing a run and letting it go on: it keeps its place of work, that is its last checkpoint, but no slot."""

from __future__ import annotations

from django.db import transaction
from django.db.models.functions import Now
from django.utils.translation import gettext as _

from experiments.leases import PLACELESS
from experiments.models import Run
from portal import audit
from portal.actors import Actor
from portal.errors import IllegalTransition
from portal.queue import enqueue_on_commit


@transaction.atomic
def pause_run(*, run: Run, actor: Actor) -> Run:
    """Keep a run from learning: at once if it has not begun, else after its current step, with a checkpoint.

    Asking twice does no harm; `run` is brought up to date. Raises: IllegalTransition if it has ended.
    """
    locked: Run = run.experiment.runs.select_for_update().get(pk=run.pk)
    if locked.is_terminal or (locked.cancel_requested_at is not None and not locked.is_held):
        raise IllegalTransition(
            _("%(run)s has ended or is being stopped, so it cannot be paused.") % {"run": locked},
            code="job_not_pausable",
        )
    if not locked.is_held:
        this_run = run.experiment.runs.filter(pk=run.pk)
        if locked.status == Run.Status.RUNNING:
            this_run.update(is_held=True, cancel_requested_at=Now())
        else:
            # A supervisor that is just starting finds its lease gone and leaves.
            lost = {"turn_came_at": None, "lease_token": None, "lease_until": None, **PLACELESS}
            this_run.update(is_held=True, status=Run.Status.QUEUED, **lost)
        action = "run.pause_requested" if locked.status == Run.Status.RUNNING else "run.paused"
        audit.record(locked.team, actor, action, locked)
        enqueue_on_commit("experiments.tasks.dispatch")
    run.refresh_from_db()
    return run


@transaction.atomic
def resume_run(*, run: Run, actor: Actor) -> Run:
    """Let a paused run wait for a slot again. Raises: IllegalTransition if it is not paused, or still on its way."""
    locked: Run = run.experiment.runs.select_for_update().get(pk=run.pk)
    if not locked.is_held or locked.is_terminal:
        raise IllegalTransition(_("%(run)s is not paused.") % {"run": locked}, code="job_not_paused")
    if locked.status == Run.Status.RUNNING:
        raise IllegalTransition(
            _("%(run)s is still writing its checkpoint. Try again in a moment.") % {"run": locked},
            code="job_is_pausing",
        )
    run.experiment.runs.filter(pk=run.pk).update(is_held=False)
    locked.events.create(team_id=locked.team_id, message=_("The run goes on."))
    audit.record(locked.team, actor, "run.resumed", locked)
    enqueue_on_commit("experiments.tasks.dispatch")
    run.refresh_from_db()
    return run

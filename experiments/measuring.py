"""Measuring weights that a run has kept: what may be asked for, and what was found so far.

Always on validation rows. The test rows are asked once, for the result: whoever chose among checkpoints by them would
have learned from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from django.db import transaction
from django.utils.translation import gettext as _

from datasets_app.models import Split
from experiments.kept import adapter_of
from experiments.models import Run
from experiments.services import next_number, put_into_queue, require_room_in_queue
from experiments.storable import storable_number
from portal.actors import Actor
from portal.errors import IllegalTransition, InvalidInput


@dataclass(frozen=True)
class Measured:
    """The newest evaluation of a step. `exact_match` lies in 0..1, None while there is none to tell."""

    run_id: UUID
    status: str
    rows: int | None
    exact_match: float | None


@transaction.atomic
def evaluate_kept(*, run: Run, step: int, actor: Actor) -> Run:
    """Queue an evaluation of the weights that a run has kept at a step, on the validation rows.

    One that waits or works already is returned instead. Call it in the team's row scope.
    Raises: IllegalTransition while the run works, InvalidInput without validation rows, NotFound if nothing was kept
    at the step, QuotaExceeded.
    """
    _require_measurable(run)
    adapter = adapter_of(run, step)
    number = next_number(run.experiment, Run.Kind.EVALUATION)  # from here on, others that ask for the same wait
    known: Run | None = adapter.starts.filter(
        kind=Run.Kind.EVALUATION, status__in=[Run.Status.QUEUED, *Run.ACTIVE]
    ).first()
    if known is not None:
        return known
    require_room_in_queue(run.experiment.team)
    evaluation = Run(
        team_id=run.team_id,
        experiment=run.experiment,
        kind=Run.Kind.EVALUATION,
        number=number,
        dataset_version=run.dataset_version,
        base_model=run.base_model,
        base_revision=run.base_revision,
        recipe=run.recipe,
        hyperparameters=run.hyperparameters,
        config_hash=run.config_hash,
        start_adapter=adapter,
        created_by=actor.user,
    )
    put_into_queue([evaluation], actor, of=str(run.pk), step=step)
    return evaluation


def _require_measurable(run: Run) -> None:
    if not run.is_training:
        raise InvalidInput(_("%(run)s has kept no weights to measure.") % {"run": run}, param="run")
    if not run.is_terminal:
        raise IllegalTransition(
            _("%(run)s is still at work. Its kept weights can be measured when it has ended.") % {"run": run}
        )
    if not run.dataset_version.row_count(Split.VALIDATION):
        raise InvalidInput(
            _("%(version)s has no validation rows to measure on. Choose a version that was split with some.")
            % {"version": run.dataset_version},
            param="dataset_version",
        )


def measured_steps(run: Run) -> Mapping[int, Measured]:
    """Return the newest evaluation of each step of a run that was measured. Call it in the team's row scope."""
    found = run.team.runs.filter(kind=Run.Kind.EVALUATION, start_adapter__run=run).order_by("queued_at")
    columns = ("start_adapter__step", "pk", "status", "evaluation__rows", "evaluation__report__tuned__exact_match")
    return {
        step: Measured(pk, status, rows, storable_number(exact))
        for step, pk, status, rows, exact in found.values_list(*columns)
    }

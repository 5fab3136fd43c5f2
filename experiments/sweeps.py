"""Sweeps: several runs of one experiment within the team's limits, losers stopped early, the best one known."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now
from django.utils.translation import gettext as _
from pydantic import ValidationError

from datasets_app.models import DatasetVersion
from experiments import estimates, services
from experiments.hyperparameter_words import refusal_words
from experiments.hyperparameters import Hyperparameters
from experiments.models import Experiment, MetricPoint, Run, RunEvent, Sweep
from experiments.storable import storable_number
from experiments.sweep_plan import (
    BadSweep,
    Range,
    Values,
    combinations,
    halving_share,
    is_halved_away,
    is_losing,
    with_values,
)
from portal import audit, quotas, usage
from portal.actors import Actor
from portal.errors import IllegalTransition, InvalidInput, QuotaExceeded
from portal.models import BaseModel, Quota, Team
from portal.rls import all_teams

_STOPPED_EARLY = "stopped_early"
_JUDGE = Actor.system("sweep of values")


@dataclass(frozen=True)
class Choice:
    """What a sweep tries: `values` around `base`; `runs` and `seed` count for random draws only."""

    values: Values
    base: Hyperparameters
    method: str = "grid"
    runs: int = 0
    seed: int = 0
    rule: str = Sweep.Rule.MEDIAN

    def listed(self) -> dict[str, Any]:
        """Return the values as JSON has them."""
        return {
            name: [f"{one.low:g}..{one.high:g}"] if isinstance(one, Range) else list(one)
            for name, one in self.values.items()
        }


@dataclass(frozen=True)
class Plan:
    """The runs that a sweep would make, and what they cost at most: node seconds and money, None if nobody can say.

    `expected_share`: of that, what is used if losers are stopped as the rule means to; 1 where nobody can tell.
    `refusal`: why the team's limits have no room for it, "" if they have.
    """

    runs: tuple[Hyperparameters, ...]
    seconds: float | None
    cost: float | None
    currency: str
    refusal: str
    expected_share: float = 1.0

    @property
    def expected_seconds(self) -> float | None:
        """Node seconds if losers are stopped as the rule means to; None if nobody can say."""
        return None if self.seconds is None else self.seconds * self.expected_share


def plan_sweep(*, team: Team, choice: Choice, dataset_version: DatasetVersion, base_model: BaseModel) -> Plan:
    """Say how many runs a sweep makes, what they cost, and whether the team's limits allow it; changes nothing.

    Raises: InvalidInput naming what is wrong with the values.
    """
    runs, seconds = _counted(choice, dataset_version, base_model)
    try:
        services.require_room_in_queue(team, adding=len(runs), lock=False)
        _require_gpu_time(team, seconds)
        refusal = ""
    except QuotaExceeded as error:
        refusal = error.message
    cost = estimates.cost_of(seconds, settings.NODE_HOUR_PRICE)
    share = halving_share(len(runs)) if choice.rule == Sweep.Rule.HALVING else 1.0
    return Plan(runs, seconds, cost, settings.NODE_HOUR_CURRENCY, refusal, share)


def _counted(
    choice: Choice, version: DatasetVersion, base_model: BaseModel
) -> tuple[tuple[Hyperparameters, ...], float | None]:
    """Return the runs of a sweep and how many seconds of GPUs they take, None if nobody can say."""
    runs = tuple(_hyperparameters(choice))
    with all_teams("how fast the machines are is nobody's secret"):
        pace = estimates.seconds_per_row_visit().get(base_model.pk)
    if pace is None:
        return runs, None
    return runs, sum(one.gpus * estimates.seconds_for(one, version.train_rows, pace) for one in runs)


def _hyperparameters(choice: Choice) -> list[Hyperparameters]:
    try:
        found = combinations(choice.values, method=choice.method, runs=choice.runs, seed=choice.seed)
    except BadSweep as error:
        raise InvalidInput(str(error), param="values") from None
    try:
        return [with_values(choice.base, one) for one in found]
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "values"
        raise InvalidInput(f"{where}: {refusal_words(problem)}", param="values") from None


def _require_gpu_time(team: Team, seconds: float | None) -> None:
    limit = quotas.limit_of(team, Quota.GPU_SECONDS)
    used = usage.gpu_seconds(team)
    if limit is not None and used + (seconds or 0.0) > limit:
        facts = {
            "asked": quotas.written(Quota.GPU_SECONDS, seconds),
            "left": quotas.written(Quota.GPU_SECONDS, max(0.0, limit - used)),
        }
        raise QuotaExceeded(
            _(
                "The sweep needs about %(asked)s of GPU time, and %(left)s are left this month."
                " Take fewer values, or ask a platform admin for more."
            )
            % facts
        )


@transaction.atomic
def start_sweep(
    *,
    experiment: Experiment,
    actor: Actor,
    choice: Choice,
    dataset_version: DatasetVersion,
    base_model: BaseModel,
    recipe: str = "",
    continue_from: Run | None = None,
    continue_step: int | None = None,
) -> Sweep:
    """Queue all runs of a sweep, or none. Raises: as `plan_sweep` and `services.submit_run`; QuotaExceeded."""
    team = experiment.team
    runs, seconds = _counted(choice, dataset_version, base_model)
    _require_gpu_time(team, seconds)
    sweep = Sweep(
        team=team,
        experiment=experiment,
        method=choice.method,
        values=choice.listed(),
        rule=choice.rule,
        created_by=actor.user,
    )
    sweep.save()
    audit.record(team, actor, "sweep.started", sweep, runs=len(runs))
    services.submit_runs(
        experiment=experiment,
        actor=actor,
        dataset_version=dataset_version,
        base_model=base_model,
        recipe=recipe,
        chosen=runs,
        continue_from=continue_from,
        continue_step=continue_step,
        sweep=sweep,
    )
    return sweep


@transaction.atomic
def cancel_sweep(*, sweep: Sweep, actor: Actor) -> int:
    """Stop all runs of a sweep that have not ended; return how many. Asking twice does no harm."""
    stopped = 0
    for run in sweep.runs.filter(status__in=[Run.Status.QUEUED, *Run.ACTIVE]).select_related("experiment__team"):
        try:
            services.cancel_run(run=run, actor=actor)
            stopped += 1
        except IllegalTransition:
            continue  # it ended by itself in this moment
    audit.record(sweep.team, actor, "sweep.cancelled", sweep, runs=stopped)
    return stopped


# --- how they do -------------------------------------------------------------------------------------------------


def courses(runs: Sequence[Run]) -> dict[uuid.UUID, list[tuple[float, float]]]:
    """Return each run's validation losses by the share of its way, in one query. Call it in the team's row scope."""
    totals = {run.pk: run.total_steps for run in runs if run.total_steps}
    found: dict[uuid.UUID, list[tuple[float, float]]] = defaultdict(list)
    points = MetricPoint.unscoped.filter(run__in=totals, values__validation_loss__isnull=False).order_by("step")
    for run_id, step, loss in points.values_list("run_id", "step", "values__validation_loss"):
        if (number := storable_number(loss)) is not None and step:
            found[run_id].append((step / totals[run_id], number))
    return found


def best_of(runs: Sequence[Run]) -> Run | None:
    """Return the finished run whose adapter has the lowest validation loss, None if there is none yet."""
    judged = [
        (loss, run.number, run)
        for run in runs
        if run.status == Run.Status.SUCCEEDED
        and (loss := storable_number(run.facts.get("finished", {}).get("validation_loss"))) is not None
    ]
    return min(judged, key=lambda one: one[:2])[2] if judged else None


def was_stopped_early(run: Run) -> bool:
    """Tell whether a run was given up because it was losing."""
    return _STOPPED_EARLY in run.facts


def stop_if_losing(run_id: uuid.UUID) -> bool:
    """Ask a run of a sweep to stop if it is losing; return whether it was. Call it in a scope that sees the run."""
    run = Run.unscoped.select_related("team", "sweep").get(pk=run_id)
    if run.sweep is None or run.sweep.rule == Sweep.Rule.NONE or run.cancel_requested_at is not None:
        return False
    alike = list(run.sweep.runs.all())
    known = courses(alike)
    own, others = known.get(run.pk, []), [course for key, course in known.items() if key != run.pk]
    halves = run.sweep.rule == Sweep.Rule.HALVING
    if not (is_halved_away(own, others, runs=len(alike)) if halves else is_losing(own, others)):
        return False
    facts = {**run.facts, _STOPPED_EARLY: {"step": run.step, "rule": run.sweep.rule}}
    Run.unscoped.filter(pk=run.pk).update(cancel_requested_at=Now(), facts=facts)
    said = _("Stopped early: at this point most other runs of the sweep had a lower validation loss.")
    RunEvent(team=run.team, run=run, level="warning", kind="stopped_early", message=said).save(force_insert=True)
    audit.record(run.team, _JUDGE, "run.stopped_early", run, step=run.step)
    return True

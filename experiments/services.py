"""What people may do with experiments and runs: start, cancel, repeat. Each call is one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import validate_slug
from django.db import IntegrityError, transaction
from django.db.models import Max
from django.db.models.functions import Now
from django.utils.translation import gettext as _

from datasets_app.models import DatasetVersion
from experiments import endings
from experiments.continuing import require_continuable, required_settings, start_adapter
from experiments.hyperparameters import Hyperparameters, config_hash
from experiments.models import Experiment, Priority, Run, Sweep
from experiments.possible import require_possible
from experiments.problem_fit import require_fit
from experiments.recipes import RECIPES, advise
from experiments.situations import situation_of
from portal import audit, quotas
from portal.actors import Actor
from portal.errors import Forbidden, IllegalTransition, InvalidInput, NotFound
from portal.models import BaseModel, Quota, Team
from portal.queue import enqueue_on_commit

DEFAULT_RECIPE = "balanced"


@transaction.atomic
def start_experiment(
    *,
    team: Team,
    actor: Actor,
    name: str,
    dataset_version: DatasetVersion,
    base_model: BaseModel,
    notes: str = "",
    recipe: str = "",
    hyperparameters: Hyperparameters | None = None,
    deploy_as: str = "",
    kind: Run.Kind = Run.Kind.TRAINING,
    continue_from: Run | None = None,
    continue_step: int | None = None,
) -> Run:
    """Create an experiment and its first run.

    Raises: InvalidInput naming what does not fit, NotFound for things of other teams; nothing is left behind then.
    """
    experiment = create_experiment(team=team, actor=actor, name=name.strip(), notes=notes.strip())
    return submit_run(
        experiment=experiment,
        actor=actor,
        dataset_version=dataset_version,
        base_model=base_model,
        recipe=recipe,
        hyperparameters=hyperparameters,
        deploy_as=deploy_as,
        kind=kind,
        continue_from=continue_from,
        continue_step=continue_step,
    )


def create_experiment(*, team: Team, actor: Actor, name: str, notes: str) -> Experiment:
    """Create an experiment without runs. Raises: InvalidInput if its name is empty, too long or taken."""
    longest = Experiment._meta.get_field("name").max_length or 0
    if not 0 < len(name) <= longest:
        raise InvalidInput(
            _("Give the experiment a name of 1 to %(longest)d characters.") % {"longest": longest}, param="name"
        )
    experiment = Experiment(team=team, name=name, notes=notes, created_by=actor.user)
    try:
        with transaction.atomic():
            experiment.save()
    except IntegrityError:
        raise InvalidInput(
            _("There is already an experiment named '%(name)s'. Choose another name.") % {"name": name}, param="name"
        ) from None
    audit.record(team, actor, "experiment.created", experiment)
    return experiment


@transaction.atomic
def submit_run(
    *,
    experiment: Experiment,
    actor: Actor,
    dataset_version: DatasetVersion,
    base_model: BaseModel,
    recipe: str = "",
    hyperparameters: Hyperparameters | None = None,
    deploy_as: str = "",
    kind: Run.Kind = Run.Kind.TRAINING,
    continue_from: Run | None = None,
    continue_step: int | None = None,
) -> Run:
    """Queue one training. Dataset version, base model revision and hyperparameters are frozen with it.

    A preflight tries a few steps of it instead; it goes before the team's other runs and is tried once.
    Without `hyperparameters` the recipe's are taken, chosen for the dataset and the nodes; without a recipe, the
    balanced one.
    `continue_from`: start from the adapter of that run instead of a fresh one; it stays as long as this run does.
    `continue_step`: from the weights that it kept at this step, not from its result.
    Raises: InvalidInput naming what does not fit, Forbidden for a base model that is not on the allow list, NotFound
    for a dataset version of another team, QuotaExceeded if too many runs of the team wait already.
    """
    if hyperparameters is None:
        recipe = _known_recipe(recipe or DEFAULT_RECIPE)
        hyperparameters = advise(recipe, situation_of(dataset_version, base_model)).hyperparameters
        if continue_from is not None and continue_from.team_id == experiment.team_id:
            hyperparameters = hyperparameters.model_copy(update=required_settings(continue_from, continue_step))
    [run] = submit_runs(
        experiment=experiment,
        actor=actor,
        dataset_version=dataset_version,
        base_model=base_model,
        chosen=[hyperparameters],
        recipe=recipe,
        deploy_as=deploy_as,
        kind=kind,
        continue_from=continue_from,
        continue_step=continue_step,
    )
    return run


@transaction.atomic
def submit_runs(
    *,
    experiment: Experiment,
    actor: Actor,
    dataset_version: DatasetVersion,
    base_model: BaseModel,
    chosen: Sequence[Hyperparameters],
    recipe: str = "",
    deploy_as: str = "",
    kind: Run.Kind = Run.Kind.TRAINING,
    continue_from: Run | None = None,
    continue_step: int | None = None,
    sweep: Sweep | None = None,
) -> list[Run]:
    """Queue a training for each of the hyperparameters, or none of them; the rest is as in `submit_run`."""
    team = experiment.team
    _require_usable(experiment, dataset_version, base_model)
    require_room_in_queue(team, adding=len(chosen))
    _known_recipe(recipe)
    deploy_as = _checked_deployment_name(deploy_as)
    if continue_from is not None:
        for one in chosen:
            require_continuable(continue_from, team_id=team.pk, base_model=base_model, chosen=one, step=continue_step)
    require_possible(chosen, base_model, dataset_version, deploy_as=deploy_as)
    # What a version's rows have to be like follows from the problem type alone, and reading them takes time.
    for one in {one.problem_type: one for one in chosen}.values():
        require_fit(dataset_version, one)
    checkpoint = start_adapter(continue_from, continue_step) if continue_from is not None else None
    first = next_number(experiment, kind)
    runs = [
        Run(
            team_id=experiment.team_id,
            experiment=experiment,
            kind=kind,
            sweep=sweep,
            number=number,
            dataset_version=dataset_version,
            base_model=base_model,
            base_revision=base_model.revision,
            recipe=recipe,
            hyperparameters=one.model_dump(mode="json"),
            config_hash=config_hash(one),
            gpus=one.gpus,
            deploy_as=deploy_as,
            continue_from=continue_from,
            start_adapter=checkpoint,
            created_by=actor.user,
        )
        for number, one in enumerate(chosen, start=first)
    ]
    for run in runs:
        if run.is_preflight:
            run.priority, run.max_attempts = Priority.HIGH, 1
    put_into_queue(runs, actor, base_model=base_model.slug, recipe=recipe)
    return runs


def require_room_in_queue(team: Team, *, adding: int = 1, lock: bool = True) -> None:
    """Make sure that so many more runs may wait; `lock` as in `quotas.require_room`. Raises: QuotaExceeded."""
    waiting = team.runs.filter(status=Run.Status.QUEUED)
    quotas.require_room(team, Quota.QUEUED_RUNS, waiting.count, adding=adding, lock=lock)


def put_into_queue(runs: Sequence[Run], actor: Actor, **told: Any) -> None:
    """Save new runs, for which there is room; the audit trail is `told` what they are."""
    for run in runs:
        run.save()
        audit.record(run.experiment.team, actor, "run.submitted", run, kind=run.kind, **told)
    enqueue_on_commit("experiments.tasks.dispatch")


def _known_recipe(recipe: str) -> str:
    if recipe and recipe not in RECIPES:
        raise InvalidInput(
            _("There is no recipe '%(recipe)s'. Known are: %(known)s.")
            % {"recipe": recipe, "known": ", ".join(RECIPES)},
            param="recipe",
        )
    return recipe


def _require_usable(experiment: Experiment, version: DatasetVersion, base_model: BaseModel) -> None:
    if version.team_id != experiment.team_id:
        raise NotFound(_("There is no such dataset version."), param="dataset_version")
    if version.status != DatasetVersion.Status.READY:
        raise InvalidInput(
            _("%(version)s is not ready to learn from: its import has to succeed first.") % {"version": version},
            param="dataset_version",
            code="dataset_not_ready",
        )
    require_allowed(base_model)


def require_allowed(base_model: BaseModel, *, param: str = "base_model") -> None:
    """Refuse a base model that is not on the platform's allow list. Raises: Forbidden."""
    if not base_model.is_allowed:
        raise Forbidden(
            _("The base model '%(model)s' is not allowed. Choose one from the list of base models.")
            % {"model": base_model.slug},
            param=param,
            code="model_not_allowed",
        )


def _checked_deployment_name(name: str) -> str:
    longest = Run._meta.get_field("deploy_as").max_length or 0
    try:
        if name:
            validate_slug(name)
    except ValidationError:
        name = "-" * (longest + 1)
    if len(name) > longest:
        raise InvalidInput(
            _("A deployment's name has at most %(longest)d letters, digits, hyphens and underscores.")
            % {"longest": longest},
            param="deploy_as",
        )
    return name


def next_number(experiment: Experiment, kind: Run.Kind) -> int:
    """Return the number of the experiment's next run of a kind; its row stays locked, so no other gets the same."""
    experiment.team.experiments.select_for_update().get(pk=experiment.pk)
    alike = experiment.runs.filter(kind=kind)
    highest: int | None = alike.aggregate(highest=Max("number"))["highest"]
    return (highest or 0) + 1


@transaction.atomic
def cancel_run(*, run: Run, actor: Actor, reason: str = "") -> Run:
    """Stop a run: at once if it has not begun, else after its current step, keeping what it has learned.

    Asking twice does no harm. `run` is brought up to date; a reason stands in its log.
    Raises: IllegalTransition if it has ended already.
    """
    locked: Run = run.experiment.runs.select_for_update().get(pk=run.pk)
    if locked.is_terminal:
        raise IllegalTransition(
            _("%(run)s has already ended (%(status)s), so it cannot be stopped.")
            % {"run": locked, "status": locked.get_status_display()}
        )
    this_run = run.experiment.runs.filter(pk=run.pk)
    why = {"reason": reason} if reason else {}
    if locked.status == Run.Status.RUNNING:
        if locked.cancel_requested_at is None or locked.is_held:
            this_run.update(cancel_requested_at=Now(), is_held=False)
            audit.record(locked.team, actor, "run.cancel_requested", locked, **why)
    else:
        # A supervisor that is just starting finds its lease gone and leaves.
        this_run.update(
            status=Run.Status.CANCELLED, ended_at=Now(), cancel_requested_at=Now(), lease_token=None, lease_until=None
        )
        endings.ended(locked.pk)
        audit.record(locked.team, actor, "run.cancelled", locked, **why)
        enqueue_on_commit("experiments.tasks.dispatch")
    if reason:
        said = _("Stopped by %(who)s: %(reason)s") % {"who": actor.label, "reason": reason}
        locked.events.create(team_id=locked.team_id, level="warning", kind="admin", message=said)
    run.refresh_from_db()
    return run


@transaction.atomic
def set_priority(*, run: Run, priority: Priority, actor: Actor) -> None:
    """Let a waiting run go before or after the others of its team; the shares of teams stay as they are.

    Raises: IllegalTransition if it does not wait any more.
    """
    waiting = run.experiment.runs.filter(pk=run.pk, status=Run.Status.QUEUED)
    if not waiting.update(priority=priority):
        raise IllegalTransition(_("%(run)s does not wait in the queue any more.") % {"run": run})
    run.priority = priority
    audit.record(run.team, actor, "run.priority_changed", run, priority=priority.name.lower())


def stop_all_runs(team: Team, actor: Actor) -> None:
    """Stop every run of a team that is being closed. Call it in a scope that sees the team's rows."""
    for run in team.runs.filter(status__in=[Run.Status.QUEUED, *Run.ACTIVE]).select_related("experiment__team"):
        try:
            cancel_run(run=run, actor=actor)
        except IllegalTransition:
            continue  # it ended by itself in this moment


@dataclass(frozen=True)
class Changes:
    """What a copy of a run has different from it; None: the same."""

    dataset_version: DatasetVersion | None = None
    base_model: BaseModel | None = None
    recipe: str | None = None
    hyperparameters: Hyperparameters | None = None
    deploy_as: str | None = None


def clone_run(*, run: Run, actor: Actor, changes: Changes) -> Run:
    """Queue a copy of a run, in the same experiment, with some things changed.

    A changed recipe without hyperparameters brings the recipe's own.
    Raises: as `submit_run`; IllegalTransition for an evaluation, which learns nothing.
    """
    if run.is_evaluation:
        raise IllegalTransition(
            _("%(run)s has only measured kept weights. Measure them again on the page of the run that kept them.")
            % {"run": run}
        )
    hyperparameters = changes.hyperparameters
    if hyperparameters is None and changes.recipe is None:
        hyperparameters = _hyperparameters_of(run)
    return submit_run(
        experiment=run.experiment,
        actor=actor,
        dataset_version=changes.dataset_version or run.dataset_version,
        base_model=changes.base_model or run.base_model,
        recipe=run.recipe if changes.recipe is None else changes.recipe,
        hyperparameters=hyperparameters,
        deploy_as=run.deploy_as if changes.deploy_as is None else changes.deploy_as,
        continue_from=run.continue_from,
        continue_step=run.start_adapter.step if run.start_adapter is not None else None,
    )


def _hyperparameters_of(run: Run) -> Hyperparameters:
    try:
        return Hyperparameters.model_validate(run.hyperparameters)
    except ValueError:  # what may be chosen has changed since
        raise InvalidInput(
            _("The hyperparameters of %(run)s are no longer allowed as they are. Start a new run instead.")
            % {"run": run},
            param="hyperparameters",
        ) from None


def rerun(*, run: Run, actor: Actor) -> Run:
    """Queue the same training once more, as a new run of the same experiment. Raises: as `submit_run`."""
    return clone_run(run=run, actor=actor, changes=Changes())

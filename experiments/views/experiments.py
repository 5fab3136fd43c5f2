"""Experiments: list, detail, and the form that starts a run."""

from __future__ import annotations

import json
import uuid
from typing import Any

from django.core.paginator import Paginator
from django.db import transaction
from django.db.models import Count, Max
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render

from experiments import services, sweeps
from experiments.forms import RunForm
from experiments.hyperparameters import form_fields
from experiments.models import TRAININGS, Experiment, Run, Sweep
from experiments.recipes import RECIPES
from portal import search
from portal.access import TeamRequest, team_view
from portal.actors import Actor
from portal.errors import PortalError
from portal.models import Role

_PER_PAGE = 20
_CONTINUING = ("continue_from", "continue_step")


@team_view()
def index(request: TeamRequest) -> HttpResponse:
    """List experiments, newest first, with a search by name."""
    query = search.typed(request)
    found = request.team.experiments.annotate(
        run_count=Count("runs", filter=TRAININGS), last_run_at=Max("runs__queued_at")
    )
    if query:
        found = found.filter(name__icontains=query)
    page = Paginator(found.order_by("-last_run_at", "-created_at"), _PER_PAGE).get_page(request.GET.get("page"))
    latest = _latest_runs(request, [experiment.pk for experiment in page])
    for experiment in page:
        vars(experiment)["latest"] = latest.get(experiment.pk)
    return render(request, "experiments/list.html", {"page": page, "query": query})


def _latest_runs(request: TeamRequest, keys: list[uuid.UUID]) -> dict[uuid.UUID, Run]:
    runs = request.team.runs.filter(experiment__in=keys, kind=Run.Kind.TRAINING).select_related("evaluation")
    return {run.experiment_id: run for run in runs.order_by("experiment_id", "-number").distinct("experiment_id")}


@team_view()
def detail(request: TeamRequest, pk: uuid.UUID) -> HttpResponse:
    """Show an experiment with its runs side by side."""
    experiment = get_object_or_404(request.team.experiments, pk=pk)
    known = experiment.runs.select_related("dataset_version__dataset", "base_model", "evaluation").order_by("-number")
    runs = [_with_figures(run) for run in known.filter(kind=Run.Kind.TRAINING)[:100]]
    trials = list(known.filter(kind=Run.Kind.PREFLIGHT)[:20])
    context = {"experiment": experiment, "runs": runs, "trials": trials, "sweeps": experiment.sweeps.all()[:20]}
    return render(request, "experiments/detail.html", context)


def _with_figures(run: Run) -> Run:
    """Attach what the comparison table shows besides: the hyperparameters that people vary."""
    run.varied = {name: run.hyperparameters.get(name) for name in ("epochs", "learning_rate", "lora_r", "batch_size")}  # type: ignore[attr-defined]
    return run


@team_view(role=Role.EDITOR)
def new(request: TeamRequest) -> HttpResponse:
    """Show the form of a new run and start it.

    `?experiment=` adds to one, `?clone=` and `?version=` fill it in, `?continue=` starts from a run's adapter, with
    `?step=` from a checkpoint that it kept.
    """
    experiment = _row_of(request.team.experiments, request.GET.get("experiment"))
    if request.method == "POST" and not request.POST.get("preview"):
        form = RunForm(request.POST, request.FILES, team=request.team, experiment=experiment)
        choice = form.sweep_choice() if form.is_valid() and not request.POST.get("trial") else None
        if choice is not None:
            return answer_sweep(request, form, experiment, choice)
        run = _start(request, form, experiment) if form.is_valid() else None
        if run is not None:
            return redirect("experiments:run", request.team.slug, run.pk)
        return render(request, "experiments/new.html", form_context(form, experiment), status=400)
    form = RunForm(team=request.team, experiment=experiment, initial=_initial(request))
    return render(request, "experiments/new.html", form_context(form, experiment))


@team_view(role=Role.EDITOR)
def hyperparameters(request: TeamRequest) -> HttpResponse:
    """Answer the form's hyperparameter part for another recipe or dataset, keeping what was typed."""
    form = RunForm(request.GET, team=request.team)
    form.errors.clear()  # nothing was submitted yet
    return render(request, "experiments/_hyperparameters.html", {"form": form})


def form_context(form: RunForm, experiment: Experiment | None) -> dict[str, Any]:
    """Return what the form's page needs."""
    descriptions = {recipe.name: recipe.description for recipe in RECIPES.values()}
    return {"form": form, "experiment": experiment, "recipe_descriptions": descriptions}


def _start(request: TeamRequest, form: RunForm, experiment: Experiment | None) -> Run | None:
    wanted = ("dataset_version", "base_model", "recipe", "hyperparameters", "deploy_as", *_CONTINUING)
    choice = {name: form.cleaned_data[name] for name in wanted}
    choice["kind"] = Run.Kind.PREFLIGHT if request.POST.get("trial") else Run.Kind.TRAINING
    actor = Actor.of(request)
    try:
        if experiment is not None:
            return services.submit_run(experiment=experiment, actor=actor, **choice)
        named = {"name": form.cleaned_data["name"], "notes": form.cleaned_data["notes"]}
        return services.start_experiment(team=request.team, actor=actor, **named, **choice)
    except PortalError as error:
        _blame(form, error)
        return None


def _blame(form: RunForm, error: PortalError) -> None:
    """Put an error beside the field that it names. Raises: what nobody can mend by typing."""
    if error.status == 404:
        raise error
    names = (error.param, f"hp_{error.param}", f"sweep_{error.param}")
    shown = [name for name in names if name in form.fields and not form.fields[name].widget.is_hidden]
    form.add_error(shown[0] if shown else None, error.message)


def answer_sweep(
    request: TeamRequest, form: RunForm, experiment: Experiment | None, choice: sweeps.Choice
) -> HttpResponse:
    """Show what a sweep would make and cost, and start it when that was seen."""
    where = {name: form.cleaned_data[name] for name in ("dataset_version", "base_model")}
    context: dict[str, Any] = form_context(form, experiment)
    try:
        context["plan"] = sweeps.plan_sweep(team=request.team, choice=choice, **where)
        if request.POST.get("sweep_seen") == str(len(context["plan"].runs)):
            sweep = _start_sweep(request, form, experiment, choice)
            return redirect("experiments:sweep", request.team.slug, sweep.pk)
    except PortalError as error:
        _blame(form, error)
        return render(request, "experiments/new.html", context, status=400)
    return render(request, "experiments/new.html", context)


@transaction.atomic
def _start_sweep(request: TeamRequest, form: RunForm, experiment: Experiment | None, choice: sweeps.Choice) -> Sweep:
    actor, given = Actor.of(request), form.cleaned_data
    if experiment is None:
        named = {"name": given["name"].strip(), "notes": given["notes"].strip()}
        experiment = services.create_experiment(team=request.team, actor=actor, **named)
    names = ("dataset_version", "base_model", "recipe", *_CONTINUING)
    return sweeps.start_sweep(
        experiment=experiment, actor=actor, choice=choice, **{name: given[name] for name in names}
    )


def _initial(request: TeamRequest) -> dict[str, Any]:
    """Return what the address asks for: a dataset version, or everything of a run to be cloned."""
    source = _row_of(request.team.runs, request.GET.get("clone"))
    version = _row_of(request.team.datasetversions, request.GET.get("version"))
    if request.GET.get("continue"):
        parent = _row_of(request.team.runs.filter(adapter__isnull=False), request.GET["continue"])
        return _continued(parent, request.GET.get("step", ""))
    if source is None:
        return {"dataset_version": version.pk if version else None}
    values = {
        f"hp_{info.name}": _as_typed(source.hyperparameters.get(info.name))
        for info in form_fields()
        if info.name in source.hyperparameters
    }
    chosen = {"dataset_version": source.dataset_version_id, "base_model": source.base_model.slug}
    if source.continue_from_id:
        chosen["continue_from"] = source.continue_from_id
        chosen["continue_step"] = source.start_adapter.step if source.start_adapter else None
    return {**values, **chosen, "recipe": source.recipe or "balanced", "name": f"{source.experiment.name} (2)"}


def _continued(parent: Run | None, step: str) -> dict[str, Any]:
    """Return what a run that goes on from another one's adapter begins with. Raises: Http404 if there is none."""
    if parent is None:
        raise Http404
    chosen = {"dataset_version": parent.dataset_version_id, "base_model": parent.base_model.slug}
    return {**chosen, "continue_from": parent.pk, "continue_step": step, "name": f"{parent.experiment.name} (2)"}


def _as_typed(value: object) -> object:
    return ("yes" if value else "no") if isinstance(value, bool) else value


def _row_of(rows: Any, key: str | None) -> Any:
    """Return the team's row with this key from the address, or None if there is none or the key is nonsense."""
    try:
        return rows.filter(pk=uuid.UUID(key)).first() if key else None
    except ValueError:
        return None


def as_json(value: object) -> str:
    """Return `value` as JSON for people: indented, letters of all alphabets as they are."""
    return json.dumps(value, indent=2, ensure_ascii=False)

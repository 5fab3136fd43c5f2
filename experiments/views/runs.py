"""One run: live progress, log, quality, settings, and what may be done with it."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.http import HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.http import require_POST

from experiments import holding, insights, kept, measuring, scheduling, services
from experiments.hyperparameter_words import fields_in_words, value_words
from experiments.hyperparameters import Hyperparameters, to_yaml
from experiments.log_lines import last_lines
from experiments.models import Priority, Run
from experiments.plan_words import plan_sentence
from experiments.preflight import memory_sentence, prediction_of
from experiments.reported_words import reported_words
from portal import audit
from portal.access import TeamRequest, team_view
from portal.actors import Actor
from portal.errors import InvalidInput, PortalError
from portal.models import Role

_POINTS = 2000
STOP_POLLING = 286


def run_of(request: TeamRequest, pk: uuid.UUID) -> Run:
    runs = request.team.runs.select_related(
        "experiment",
        "dataset_version__dataset",
        "base_model",
        "node",
        "created_by",
        "continue_from__experiment",
        "start_adapter__run__experiment",
    )
    return get_object_or_404(runs, pk=pk)


@team_view()
def run(request: TeamRequest, pk: uuid.UUID) -> HttpResponse:
    """Show a run as it learns."""
    found = run_of(request, pk)
    points = insights.points_of(found)
    lines, earlier = last_lines(found)
    context = {
        **_live(found, points, insights.latest_of(points)),
        **_shown_rows(request, found),
        "lines": lines,
        "earlier_lines": earlier,
        "table": insights.figures_table(points),
        "kept": _kept(found, points) if found.is_training else [],
        "quality_metrics": insights.measured_quality(points),
        "tracked": request.team.trackedruns.filter(run=found).select_related("tracker").first(),
    }
    return render(request, "experiments/run.html", context)


@team_view()
def run_status(request: TeamRequest, pk: uuid.UUID) -> HttpResponse:
    """Answer the live part of the run page; 286 stops its polling when the run has ended."""
    found = run_of(request, pk)
    status = STOP_POLLING if found.is_terminal else 200
    live = _live(found, insights.losses_of(found), insights.latest_of(insights.recent_points(found)))
    response = render(request, "experiments/_run_status.html", live, status=status)
    if found.is_terminal and request.GET.get("was") not in (None, found.status):
        response["HX-Refresh"] = "true"  # the page around the card offers other actions now
    return response


@team_view()
def run_rows(request: TeamRequest, pk: uuid.UUID) -> HttpResponse:
    """Answer the rows that the run learns from and its answers so far: 204 if `?seen=` says that they are known."""
    found = run_of(request, pk)
    state = insights.rows_state(found)
    if request.GET.get("seen") == state:
        return HttpResponse(status=STOP_POLLING if found.is_terminal else 204)
    context = {**_shown_rows(request, found), "run": found}
    return render(request, "experiments/_learned_rows.html", context)


def _kept(found: Run, points: insights.Points) -> list[tuple[kept.KeptWeights, measuring.Measured | None]]:
    measured = measuring.measured_steps(found)
    return [(one, measured.get(one.step)) for one in kept.kept_weights(found, points)]


def _shown_rows(request: TeamRequest, found: Run) -> dict[str, Any]:
    rows, samples = insights.learned_rows(found), insights.samples_of(found)
    if rows or samples:
        audit.read(request.team, Actor.of(request), "run.rows_read", found)
    return {"learned_rows": rows, "samples": samples, "rows_state": insights.rows_state(found)}


def _live(found: Run, points: insights.Points, latest: dict[str, Any]) -> dict[str, Any]:
    waiting = scheduling.waiting_place(found) if found.status == Run.Status.QUEUED else None
    prediction = prediction_of(found)
    return {
        "run": found,
        "latest": insights.with_losses(latest, points),
        "waiting": waiting,
        "adapter": getattr(found, "adapter", None),
        "reading": insights.hint_for(found, points) if found.is_training else None,
        "prediction": prediction,
        "memory": memory_sentence(prediction) if prediction else "",
        "plan": plan_sentence(found),
    }


@team_view()
def metrics(request: TeamRequest, pk: uuid.UUID) -> JsonResponse:
    """Answer metric points from step `?after=` on; the last step comes again, since its validation loss may be new."""
    found = run_of(request, pk)
    after = number_of(request.GET.get("after"))
    points = list(found.metrics.filter(step__gte=after).order_by("step")[:_POINTS])
    rows = [{"step": point.step, **point.values} for point in points]
    done = found.is_terminal and len(points) < _POINTS
    return JsonResponse({"points": rows, "next": points[-1].step if points else after, "done": done})


def number_of(text: str | None) -> int:
    """Return a whole number from an address, 0 for anything else."""
    return int(text) if text and text.isdecimal() and len(text) < 16 else 0


@team_view()
def settings(request: TeamRequest, pk: uuid.UUID) -> HttpResponse:
    """Show everything that decides what the run does: data, model, every hyperparameter."""
    found = run_of(request, pk)
    groups: dict[str, list[tuple[str, object, str, str]]] = {}
    for info in fields_in_words():
        if info.shown_if and str(found.hyperparameters.get(info.shown_if[0])) not in info.shown_if[1]:
            continue  # says nothing about this run
        shown = value_words(info, found.hyperparameters.get(info.name))
        groups.setdefault(info.group, []).append((info.label, shown, info.unit, info.help))
    context = {"run": found, "groups": list(groups.items()), "reported": reported_words(found)}
    return render(request, "experiments/settings.html", context)


@team_view()
def settings_yaml(request: TeamRequest, pk: uuid.UUID) -> HttpResponse:
    """Download the hyperparameters as YAML, to be used for another run."""
    found = run_of(request, pk)
    text = to_yaml(Hyperparameters.model_validate(found.hyperparameters))
    response = HttpResponse(text, content_type="application/yaml; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="run-{found.pk}.yaml"'
    return response


@team_view(role=Role.EDITOR)
def cancel(request: TeamRequest, pk: uuid.UUID) -> HttpResponse:
    """Ask whether to stop the run, and stop it; what was learned so far is kept."""
    found = run_of(request, pk)
    if request.method == "POST":
        services.cancel_run(run=found, actor=Actor.of(request))
        kept_now = _("The run stops after its current step. What it has learned is kept.")
        messages.success(request, _("The evaluation stops.") if found.is_evaluation else kept_now)
        return redirect("experiments:run", request.team.slug, found.pk)
    kept_then = _("It stops after its current step. What it has learned so far is kept and can be tried.")
    context = {
        "title": _("Stop this run?"),
        "message": _("There will be no report then.") if found.is_evaluation else kept_then,
        "action": _("Stop run"),
        "cancel_url": request.path.removesuffix("cancel/"),
        "danger": True,
    }
    return render(request, "components/confirm.html", context)


@team_view(role=Role.EDITOR)
@require_POST
def rerun(request: TeamRequest, pk: uuid.UUID) -> HttpResponse:
    """Start the same run once more."""
    again = services.rerun(run=run_of(request, pk), actor=Actor.of(request))
    return redirect("experiments:run", request.team.slug, again.pk)


@team_view(role=Role.EDITOR)
@require_POST
def pause(request: TeamRequest, pk: uuid.UUID) -> HttpResponse:
    """Have a run stop after its current step and wait until it is resumed."""
    return _held(request, pk, holding.pause_run, _("The run pauses after its current step and keeps its checkpoint."))


@team_view(role=Role.EDITOR)
@require_POST
def resume(request: TeamRequest, pk: uuid.UUID) -> HttpResponse:
    """Let a paused run wait for a slot again."""
    return _held(request, pk, holding.resume_run, _("The run goes on as soon as a slot is free."))


def _held(request: TeamRequest, pk: uuid.UUID, change: Callable[..., Run], said: str) -> HttpResponse:
    found = run_of(request, pk)
    try:
        change(run=found, actor=Actor.of(request))
        messages.success(request, said)
    except PortalError as error:
        messages.error(request, error.message)
    return redirect("experiments:run", request.team.slug, found.pk)


@team_view(role=Role.EDITOR)
@require_POST
def priority(request: TeamRequest, pk: uuid.UUID) -> HttpResponse:
    """Let a waiting run go before or after the others of the team."""
    try:
        chosen = Priority(int(request.POST.get("priority", "")))
    except ValueError:
        raise InvalidInput(_("Choose one of the priorities low, normal and high."), param="priority") from None
    found = run_of(request, pk)
    services.set_priority(run=found, priority=chosen, actor=Actor.of(request))
    messages.success(
        request, _("%(run)s has the priority %(priority)s now.") % {"run": found, "priority": chosen.label}
    )
    return redirect("experiments:queue", request.team.slug)


@team_view()
def queue(request: TeamRequest) -> HttpResponse:
    """Show what waits, at which place, why and until about when, and what runs; asked again by itself."""
    places = scheduling.queue_places(request.team)
    active = request.team.runs.filter(status__in=Run.ACTIVE).select_related("experiment", "node")
    count = {"count": len(places)}
    waiting = ngettext("%(count)d run is waiting.", "%(count)d runs are waiting.", len(places)) % count
    summary = waiting if places else _("No run is waiting.")
    context = {"places": places, "active": active, "summary": summary, "priorities": Priority.choices}
    template = "experiments/_queue.html" if request.headers.get("HX-Request") else "experiments/queue.html"
    return render(request, template, context)

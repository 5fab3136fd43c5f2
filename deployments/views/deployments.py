"""The team's deployments: the list, one of them, and what may be done with it."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from deployments import services, traffic
from deployments.advice import Advice, advice_of
from deployments.decidable import holds_where_loaded
from deployments.forms import DeployForm
from deployments.models import Deployment, DeploymentVersion
from deployments.prompts import common_system_prompt, schema_of
from deployments.states import Standing, State, canary_standing, standing_of, standings
from portal.access import TeamRequest, team_view
from portal.actors import Actor
from portal.errors import PortalError
from portal.models import Role

STOP_POLLING = 286
_PER_PAGE = 50
_EVENTS = 50
_LIVE = (
    "live_version__adapter__run__experiment", "live_version__adapter__base_model", "next_version", "canary_version",
)  # fmt: skip


@team_view()
@require_GET
def index(request: TeamRequest) -> HttpResponse:
    """List deployments with their state and traffic."""
    found = request.team.deployments.select_related("team", *_LIVE)
    page = Paginator(found, _PER_PAGE).get_page(request.GET.get("page"))
    shown = list(page)
    known, used = standings(request.team, shown), traffic.totals_of_last_day(request.team, shown)
    rows = [(deployment, known[deployment], used[deployment.pk]) for deployment in shown]
    runs = request.team.runs.filter(adapter__isnull=False)
    return render(request, "deployments/list.html", {"page": page, "rows": rows, "has_runs": runs.exists()})


@team_view()
@require_GET
def detail(request: TeamRequest, pk: str) -> HttpResponse:
    """Show one deployment: its versions, how to call it, how it was used."""
    context = state_context(request, pk)
    context["traffic"] = traffic.last_day(context["deployment"])
    context["api_url"] = request.build_absolute_uri("/v1")
    context["advice"] = _advice_for_live(context["deployment"], context["versions"])
    answering = context["deployment"].live_version or context["deployment"].next_version
    context["temperatures_hold"] = answering is None or holds_where_loaded(answering)
    context["days"] = request.GET.get("days") if request.GET.get("days") in ("7", "30") else "1"
    context["events"] = context["deployment"].events.select_related("person")[:_EVENTS]
    return render(request, "deployments/detail.html", context)


def _advice_for_live(deployment: Deployment, versions: list[DeploymentVersion]) -> Advice:
    """Return the thresholds that the report behind the version that answers, or will, recommends."""
    shown = deployment.live_version_id or deployment.next_version_id
    return next((advice_of(version.adapter.evaluation) for version in versions if version.pk == shown), Advice())


@team_view()
@require_GET
def traffic_points(request: TeamRequest, pk: str) -> JsonResponse:
    """Answer requests, errors, times and tokens of the last `?days=` days, as points of the charts."""
    days = request.GET.get("days", "")
    points = traffic.course(_deployment(request, pk), days=int(days) if days in ("1", "7", "30") else 1)
    return JsonResponse({"points": points, "next": 0, "done": True})


@team_view()
@require_GET
def state(request: TeamRequest, pk: str) -> HttpResponse:
    """Answer the part of the page that changes by itself; 286 ends the polling when nothing will."""
    context = state_context(request, pk)
    status = STOP_POLLING if context["is_settled"] else 200
    return render(request, "deployments/_polled_state.html", context, status=status)


def state_context(request: TeamRequest, pk: str) -> dict[str, Any]:
    """Return what the state partial shows."""
    deployment = get_object_or_404(request.team.deployments.select_related("team", "created_by", *_LIVE), pk=pk)
    versions = deployment.versions.select_related("adapter__run__experiment", "adapter__run__evaluation", "created_by")
    standing, of_canary = standing_of(deployment), canary_standing(deployment)
    if of_canary is not None and standing.state == State.ASLEEP and of_canary.state == State.PENDING:
        of_canary = Standing(State.ASLEEP)
    return {
        "deployment": deployment,
        "standing": standing,
        "canary_standing": of_canary,
        "sides": traffic.side_by_side(deployment),
        "is_settled": standing.is_settled and (of_canary is None or of_canary.is_settled),
        "versions": list(versions),
    }


@team_view(role=Role.EDITOR)
@require_http_methods(["GET", "HEAD", "POST"])
def deploy(request: TeamRequest) -> HttpResponse:
    """Deploy a run: by the dialog on the run's page, or by this form."""
    form = DeployForm(request.POST or None, team=request.team, initial=_initial(request))
    if request.method == "POST" and form.is_valid():
        run, name = form.cleaned_data["run"], form.cleaned_data["name"]
        try:
            version = services.deploy_run(
                team=request.team,
                actor=Actor.of(request),
                run=run,
                name=name,
                step=form.cleaned_data["step"],
                system_prompt=form.given_system_prompt,
                response_schema=schema_of(run.dataset_version) if form.cleaned_data["bind_to_schema"] else None,
                thresholds=form.cleaned_data["thresholds"],
                max_tokens=form.cleaned_data["max_tokens"],
                note=form.cleaned_data["note"],
            )
        except PortalError as error:
            form.add_error(error.param if error.param in form.fields else None, error.message)
        else:
            _say_what_becomes_of(request, version)
            return redirect("deployments:detail", request.team.slug, version.deployment_id)
    context = {"form": form, "advice": _advice(form)}
    return render(request, "deployments/deploy.html", context, status=400 if form.errors else 200)


def _advice(form: DeployForm) -> Advice:
    """Return the thresholds that the chosen run's report recommends; a checkpoint has no report."""
    chosen = form.cleaned_data if form.is_bound else form.initial
    run = chosen.get("run")
    if run is None or chosen.get("step"):
        return Advice()
    return advice_of(run.adapter.evaluation)


def _initial(request: TeamRequest) -> dict[str, Any]:
    """Return what the form can know of the run named in the address."""
    form = DeployForm({"run": request.GET.get("run", ""), "name": "-"}, team=request.team)
    form.full_clean()
    run = form.cleaned_data.get("run")
    if run is None:
        return {"name": request.GET.get("name", "")}
    has_schema = schema_of(run.dataset_version) is not None
    prompt = common_system_prompt(run.dataset_version)
    step = request.GET.get("step", "")
    return {
        "run": run,
        "name": request.GET.get("name", ""),
        "step": step if step.isdecimal() else None,
        "system_prompt": prompt,
        "bind_to_schema": has_schema,
    }


def _say_what_becomes_of(request: HttpRequest, version: DeploymentVersion) -> None:
    words = {"number": version.number, "name": version.deployment.name}
    deployment = version.team.deployments.get(pk=version.deployment_id)
    if version.pk in (deployment.live_version_id, deployment.next_version_id):
        messages.success(request, _("Version %(number)d of %(name)s is being loaded; it answers in a moment.") % words)
    else:
        messages.warning(
            request,
            _("Version %(number)d of %(name)s is kept, but a rule holds it back. Promote shows which one.") % words,
        )


@team_view(role=Role.EDITOR)
@require_POST
def start(request: TeamRequest, pk: str) -> HttpResponse:
    """Answer again under this name."""
    deployment = services.start_deployment(deployment=_deployment(request, pk), actor=Actor.of(request))
    messages.success(request, _("%(name)s is being loaded; it answers in a moment.") % {"name": deployment.name})
    return _back(request, deployment)


@team_view(role=Role.EDITOR)
@require_http_methods(["GET", "HEAD", "POST"])
def stop(request: TeamRequest, pk: str) -> HttpResponse:
    """Ask, then answer no more requests under this name."""
    deployment = _deployment(request, pk)
    if request.method == "POST":
        services.stop_deployment(deployment=deployment, actor=Actor.of(request))
        messages.success(request, _("%(name)s is stopped. Start it whenever you like.") % {"name": deployment.name})
        return _back(request, deployment)
    return _confirm(
        request,
        deployment,
        title=_("Stop %(name)s?") % {"name": deployment.name},
        message=_("Requests to it are refused until it is started again. Its versions are kept."),
        action=_("Stop"),
    )


@team_view(role=Role.EDITOR)
@require_http_methods(["GET", "HEAD", "POST"])
def delete(request: TeamRequest, pk: str) -> HttpResponse:
    """Ask, then delete a deployment and its versions."""
    deployment = _deployment(request, pk)
    if request.method == "POST":
        services.delete_deployment(deployment=deployment, actor=Actor.of(request))
        messages.success(request, _("%(name)s is deleted.") % {"name": deployment.name})
        return redirect("deployments:list", request.team.slug)
    return _confirm(
        request,
        deployment,
        title=_("Delete %(name)s?") % {"name": deployment.name},
        message=_("Systems that call it get an error. Runs and their models are kept and can be deployed again."),
        action=_("Delete"),
    )


def _deployment(request: TeamRequest, pk: str) -> Deployment:
    return get_object_or_404(request.team.deployments.select_related("team"), pk=pk)


def _back(request: TeamRequest, deployment: Deployment) -> HttpResponse:
    return redirect("deployments:detail", request.team.slug, deployment.pk)


def _confirm(request: HttpRequest, deployment: Deployment, **words: str) -> HttpResponse:
    back = reverse("deployments:detail", args=[deployment.team.slug, deployment.pk])
    return render(request, "components/confirm.html", {**words, "danger": True, "cancel_url": back})

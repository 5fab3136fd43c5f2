"""Which version answers: comparing, promoting, rolling back; the rules for it; and when a deployment sleeps."""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods

from deployments import canaries, gate, policies, services
from deployments.forms import CanaryForm, PolicyForm, PromoteForm, RetirementForm, SleepForm
from deployments.models import DeploymentVersion
from deployments.version_differences import differences
from portal.access import TeamRequest, team_view
from portal.actors import Actor
from portal.display.numbers import percentage
from portal.errors import InvalidInput, PortalError
from portal.models import Role

_SHOWN = (
    "deployment__team", "adapter__run__evaluation", "adapter__run__experiment", "adapter__base_model",
    "deployment__live_version__adapter__run__evaluation", "deployment__live_version__adapter__run__experiment",
    "deployment__live_version__adapter__base_model",
)  # fmt: skip


@team_view(role=Role.EDITOR)
@require_http_methods(["GET", "HEAD", "POST"])
def promote(request: TeamRequest, pk: uuid.UUID) -> HttpResponse:
    """Show a version beside the one that answers, rule by rule; a POST lets it answer, or an earlier one again."""
    version = get_object_or_404(request.team.deploymentversions.select_related(*_SHOWN), pk=pk)
    form = PromoteForm(request.POST if request.method == "POST" else None)
    status = 200
    if request.method == "POST" and form.is_valid():
        try:
            deployment = services.promote_version(
                version=version,
                actor=Actor.of(request),
                reason=form.cleaned_data["reason"],
                override=form.cleaned_data["override"] and request.role == Role.ADMIN,
            )
        except PortalError as error:
            form.add_error(error.param if error.param in form.fields else None, error.message)
            status = error.status
        else:
            waits = deployment.next_version_id == version.pk
            text = _("Version %(number)d answers now.")
            if waits:
                text = _("Version %(number)d answers as soon as it is loaded; until then nothing changes.")
            messages.success(request, text % {"number": version.number})
            return redirect("deployments:detail", request.team.slug, deployment.pk)
    return render(request, "deployments/promote.html", _comparison(version) | {"form": form}, status=status)


def _comparison(version: DeploymentVersion) -> dict[str, Any]:
    deployment = version.deployment
    live = deployment.live_version
    return {
        "version": version,
        "deployment": deployment,
        "live": live,
        "differences": differences(version, live) if live is not None and live.pk != version.pk else [],
        "judgement": gate.judge(deployment, version),
        "is_rollback": live is not None and version.number < live.number,
        "is_live": live is not None and version.pk == live.pk,
    }


@team_view(role=Role.EDITOR)
@require_http_methods(["GET", "HEAD", "POST"])
def canary(request: TeamRequest, pk: uuid.UUID) -> HttpResponse:
    """Show a version beside the one that answers; a POST gives it a share of the requests, or another share."""
    version = get_object_or_404(request.team.deploymentversions.select_related(*_SHOWN), pk=pk)
    deployment = version.deployment
    is_canary = deployment.canary_version_id == version.pk
    initial = {"share": deployment.canary_share} if is_canary else None
    form = CanaryForm(request.POST if request.method == "POST" else None, initial=initial)
    status = 400 if request.method == "POST" else 200
    if form.is_valid():
        try:
            given = form.cleaned_data
            canaries.set_canary(
                version=version,
                actor=Actor.of(request),
                share=given["share"],
                reason=given["reason"],
                override=given["override"] and request.role == Role.ADMIN,
            )
        except PortalError as error:
            form.add_error(error.param if error.param in form.fields else None, error.message)
            status = error.status
        else:
            words = {"number": version.number, "share": percentage(given["share"])}
            messages.success(
                request, _("Version %(number)d gets %(share)s of the requests as soon as it is loaded.") % words
            )
            return redirect("deployments:detail", request.team.slug, deployment.pk)
    context = _comparison(version) | {"form": form, "is_canary": is_canary}
    return render(request, "deployments/canary.html", context, status=status)


@team_view(role=Role.EDITOR)
@require_http_methods(["GET", "HEAD", "POST"])
def canary_end(request: TeamRequest, pk: uuid.UUID) -> HttpResponse:
    """Ask, then let the live version answer all requests again."""
    found = request.team.deployments.select_related("team", "canary_version")
    deployment = get_object_or_404(found, pk=pk)
    if request.method == "POST":
        canaries.take_back(deployment=deployment, actor=Actor.of(request))
        messages.success(request, _("The canary is taken back. No request was lost."))
        return redirect("deployments:detail", request.team.slug, deployment.pk)
    back = reverse("deployments:detail", args=[request.team.slug, deployment.pk])
    words = {
        "title": _("Take the canary of %(name)s back?") % {"name": deployment.name},
        "message": _("The live version answers all requests again. The version is kept and can be tried again."),
        "action": _("Take back"),
    }
    return render(request, "components/confirm.html", {**words, "cancel_url": back})


@team_view(role=Role.ADMIN)
@require_http_methods(["GET", "HEAD", "POST"])
def policy(request: TeamRequest) -> HttpResponse:
    """Show and change the rules that a version has to keep before it may answer."""
    known = gate.policy_of(request.team)
    form = PolicyForm(request.POST if request.method == "POST" else None, initial=PolicyForm.initial_of(known))
    if request.method == "POST" and form.is_valid():
        given = form.cleaned_data
        policies.set_policy(
            team=request.team,
            actor=Actor.of(request),
            is_on=given["is_on"],
            shares=form.shares,
            max_median_ms=given["max_median_ms"],
            needs_same_rows=given["needs_same_rows"],
        )
        messages.success(request, _("The rules are saved. They hold for the next version that wants to answer."))
        return redirect("deployments:list", request.team.slug)
    return render(request, "deployments/policy.html", {"form": form}, status=400 if form.errors else 200)


@team_view(role=Role.EDITOR)
@require_http_methods(["GET", "HEAD", "POST"])
def sleep(request: TeamRequest, pk: uuid.UUID) -> HttpResponse:
    """Show and change after how long without a request a deployment sleeps."""
    deployment = get_object_or_404(request.team.deployments.select_related("team"), pk=pk)
    posted = request.POST if request.method == "POST" else None
    form = SleepForm(posted, initial={"sleep_after_minutes": deployment.sleep_after_minutes})
    if request.method == "POST" and form.is_valid():
        services.set_sleep(
            deployment=deployment, actor=Actor.of(request), minutes=form.cleaned_data["sleep_after_minutes"]
        )
        messages.success(request, _("Saved."))
        return redirect("deployments:detail", request.team.slug, deployment.pk)
    context = {"form": form, "deployment": deployment}
    return render(request, "deployments/sleep.html", context, status=400 if form.errors else 200)


@team_view(role=Role.ADMIN)
@require_http_methods(["GET", "HEAD", "POST"])
def retirement(request: TeamRequest, pk: uuid.UUID) -> HttpResponse:
    """Show and change on which day a deployment answers for the last time."""
    deployment = get_object_or_404(request.team.deployments.select_related("team"), pk=pk)
    posted = request.POST if request.method == "POST" else None
    form = RetirementForm(posted, initial={"retires_on": deployment.retires_on})
    if request.method == "POST" and form.is_valid():
        last_day = form.cleaned_data["retires_on"]
        try:
            services.set_retirement(deployment=deployment, actor=Actor.of(request), last_day=last_day)
        except InvalidInput as error:
            form.add_error("retires_on", error.message)
        else:
            messages.success(request, _("Saved."))
            return redirect("deployments:detail", request.team.slug, deployment.pk)
    context = {"form": form, "deployment": deployment}
    return render(request, "deployments/retirement.html", context, status=400 if form.errors else 200)

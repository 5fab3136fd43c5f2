"""The request log of a deployment: what was asked, and, where the team keeps texts, what was said; corrections."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from deployments import request_log
from deployments.forms import CorrectionForm, LogForm
from deployments.models import Deployment, InferenceRecord, LoggedText
from portal import audit
from portal.access import TeamRequest, team_view
from portal.actors import Actor
from portal.errors import PortalError
from portal.models import Role

_PER_PAGE = 50
_LONGEST_REQUEST = timedelta(minutes=15)


@team_view()
@require_GET
def index(request: TeamRequest, pk: UUID) -> HttpResponse:
    """List requests, the newest first; `?before=` goes on behind one, `?only=corrected` shows corrections."""
    deployment = _deployment(request, pk)
    found = request.team.inferencerecords.filter(version__deployment=deployment)
    if request.GET.get("only") == "corrected":
        found = found.filter(text__correction__gt="")
    before = request.GET.get("before", "")
    if before.isdecimal() and len(before) < 16:
        found = found.filter(pk__lt=int(before))
    rows = list(found.select_related("version", "token", "text").order_by("-pk")[: _PER_PAGE + 1])
    if any(_text(row) for row in rows):
        audit.read(request.team, Actor.of(request), "request.texts_read", deployment, count=len(rows[:_PER_PAGE]))
    context = {
        "deployment": deployment,
        "rows": [(row, _text(row)) for row in rows[:_PER_PAGE]],
        "older": rows[_PER_PAGE - 1].pk if len(rows) > _PER_PAGE else None,
        "waiting": request_log.waiting(deployment).count(),
        "dataset": request_log.dataset_of(deployment),
        "only": request.GET.get("only", ""),
    }
    return render(request, "deployments/log.html", context)


@team_view(role=Role.EDITOR)
@require_http_methods(["GET", "HEAD", "POST"])
def settings(request: TeamRequest, pk: UUID) -> HttpResponse:
    """Show and change whether texts are kept, and for how long."""
    deployment = _deployment(request, pk)
    initial = {"logs_text": deployment.logs_text, "log_days": deployment.log_days}
    form = LogForm(request.POST if request.method == "POST" else None, initial=initial)
    if request.method == "POST" and form.is_valid():
        given = form.cleaned_data
        request_log.set_log(
            deployment=deployment, actor=Actor.of(request), logs_text=given["logs_text"], days=given["log_days"]
        )
        messages.success(request, _("Saved. It holds for requests from now on."))
        return redirect("deployments:log", request.team.slug, deployment.pk)
    context = {"form": form, "deployment": deployment, "kept": deployment.texts.count()}
    return render(request, "deployments/log_settings.html", context, status=400 if form.errors else 200)


@team_view(role=Role.EDITOR)
@require_http_methods(["GET", "HEAD", "POST"])
def delete_texts(request: TeamRequest, pk: UUID) -> HttpResponse:
    """Ask, then delete all kept texts."""
    deployment = _deployment(request, pk)
    if request.method == "POST":
        count = request_log.delete_texts(deployment=deployment, actor=Actor.of(request))
        messages.success(request, ngettext("%(count)d text is deleted.", "%(count)d texts are deleted.", count)
                         % {"count": count})  # fmt: skip
        return redirect("deployments:log", request.team.slug, deployment.pk)
    context = {
        "title": _("Delete all kept texts of %(name)s?") % {"name": deployment.name},
        "message": _("What was asked, answered and corrected is lost. Rows that corrections became are kept."),
        "action": _("Delete"),
        "danger": True,
        "cancel_url": reverse("deployments:log", args=[request.team.slug, deployment.pk]),
    }
    return render(request, "components/confirm.html", context)


@team_view(role=Role.EDITOR)
@require_POST
def take(request: TeamRequest, pk: UUID) -> HttpResponse:
    """Make a new version of the dataset with the corrections that wait."""
    deployment = _deployment(request, pk)
    try:
        derived = request_log.take_corrections(deployment=deployment, actor=Actor.of(request))
    except PortalError as error:
        messages.error(request, error.message)
        return redirect("deployments:log", request.team.slug, deployment.pk)
    messages.success(
        request,
        _("Version %(number)d of %(name)s is being made with the corrections as training rows.")
        % {"number": derived.number, "name": derived.dataset},
    )
    return redirect("datasets:detail", request.team.slug, derived.dataset_id)


@team_view()
@require_http_methods(["GET", "HEAD", "POST"])
def record(request: TeamRequest, pk: UUID, record: int) -> HttpResponse:
    """Show one request with its texts; editors say what the answer should have been."""
    deployment = _deployment(request, pk)
    found = get_object_or_404(
        request.team.inferencerecords.select_related("version", "token", "text__taken_into", "text__corrected_by"),
        pk=record,
        version__deployment=deployment,
    )
    text = _text(found)
    form, status = CorrectionForm(initial={"correction": _correction(text)}), 200
    if request.method == "POST":
        if text is None or not request.role.includes(Role.EDITOR):
            raise Http404
        form = CorrectionForm(request.POST)
        if form.is_valid():
            try:
                given = form.cleaned_data["correction"]
                request_log.correct(text=text, actor=Actor.of(request), correction=given)
            except PortalError as error:
                form.add_error(error.param if error.param in form.fields else None, error.message)
                status = error.status
            else:
                messages.success(request, _("The correction is kept. It becomes a row when you add corrections."))
                return redirect("deployments:log", request.team.slug, deployment.pk)
    elif text is not None:
        audit.read(request.team, Actor.of(request), "request.texts_read", deployment, record=found.pk)
    context: dict[str, Any] = {"deployment": deployment, "record": found, "text": text, "form": form}
    context["other"] = _other_attempt(found, deployment)
    return render(request, "deployments/log_record.html", context, status=status)


def _other_attempt(found: InferenceRecord, deployment: Deployment) -> InferenceRecord | None:
    """Return the record of the same request that replaced this one, or was replaced by it."""
    if not found.attempt:
        return None
    around = (found.at - _LONGEST_REQUEST, found.at + _LONGEST_REQUEST)  # there is an index of times
    others = deployment.team.inferencerecords.filter(version__deployment=deployment, at__range=around)
    same: InferenceRecord | None = (
        others.filter(request_id=found.request_id).exclude(attempt__in=["", found.attempt]).first()
    )
    return same


def _correction(text: LoggedText | None) -> str:
    """Return what the field of a correction begins with: the correction, or the answer to be changed."""
    return (text.correction or text.answer) if text is not None else ""


def _text(row: InferenceRecord) -> LoggedText | None:
    text: LoggedText | None = getattr(row, "text", None)
    return text


def _deployment(request: TeamRequest, pk: UUID) -> Deployment:
    return get_object_or_404(request.team.deployments.select_related("team"), pk=pk)

"""The judge of answers: whom the team asks, and its ratings of one run's answers."""

from __future__ import annotations

import uuid
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from experiments.llm_judge import services
from experiments.llm_judge.forms import AskForm, JudgeForm
from experiments.llm_judge.models import Judgement
from experiments.models import Evaluation
from experiments.views.runs import run_of
from portal import audit
from portal.access import TeamRequest, team_view
from portal.actors import Actor
from portal.errors import InvalidInput
from portal.impersonation import refuse_if_impersonated
from portal.models import Role
from portal.platform_forms import applied

_STOP_POLLING = 286
_SHOWN_RATINGS = 5


@team_view(role=Role.ADMIN)
def index(request: TeamRequest) -> HttpResponse:
    """Show and change whom the team asks to rate answers."""
    setting = request.team.judgesettings.first()
    form = JudgeForm(request.POST or None, team=request.team, setting=setting)
    if request.method == "POST":
        refuse_if_impersonated(request)
    if applied(form, services.set_judge, team=request.team, actor=Actor.of(request)):
        messages.success(request, _("Saved. Ask the judge on the quality page of a run."))
        return redirect("experiments:judge", request.team.slug)
    context = {"form": form, "setting": setting}
    return render(request, "experiments/judge.html", context, status=400 if form.errors else 200)


@team_view(role=Role.ADMIN)
@require_POST
def delete(request: TeamRequest) -> HttpResponse:
    """Ask nobody any more."""
    refuse_if_impersonated(request)
    services.remove_judge(setting=get_object_or_404(request.team.judgesettings), actor=Actor.of(request))
    messages.success(request, _("The judge is removed. What it has rated stays."))
    return redirect("experiments:judge", request.team.slug)


@team_view(role=Role.EDITOR)
@require_POST
def ask(request: TeamRequest, pk: uuid.UUID) -> HttpResponse:
    """Have the answers of a run rated."""
    form = AskForm(request.POST)
    if not form.is_valid():
        raise InvalidInput(_("The number of rows is a whole number above 0."), param="rows")
    services.ask_judge(evaluation=_evaluation(request, pk), actor=Actor.of(request), **form.cleaned_data)
    messages.success(request, _("The judge reads the answers. Its ratings appear on this page."))
    return redirect("experiments:quality", request.team.slug, pk)


@team_view(role=Role.EDITOR)
@require_POST
def cancel(request: TeamRequest, pk: uuid.UUID) -> HttpResponse:
    """Ask the judge no further."""
    services.cancel_judgement(evaluation=_evaluation(request, pk), actor=Actor.of(request))
    messages.success(request, _("The judge is not asked any more."))
    return redirect("experiments:quality", request.team.slug, pk)


@team_view()
def judgement(request: TeamRequest, pk: uuid.UUID) -> HttpResponse:
    """Answer the newest judgement of a run as a part of its quality page; 286 ends the polling."""
    evaluation = _evaluation(request, pk)
    context = {"run": evaluation.run, **judgement_context(request, evaluation)}
    found = context["judgement"]
    if found is not None and found.ratings:
        audit.read(request.team, Actor.of(request), "run.answers_read", evaluation.run)
    status = 200 if found is not None and found.is_open else _STOP_POLLING
    return render(request, "experiments/_quality_judge.html", context, status=status)


def judgement_context(request: TeamRequest, evaluation: Evaluation) -> dict[str, Any]:
    """Return what `_quality_judge.html` shows: the judge, its newest judgement, and the answers it liked least."""
    found: Judgement | None = evaluation.judgements.first()
    rated = [one for one in found.ratings if one["tuned"]] if found and not found.is_open else []
    worst = sorted(rated, key=lambda one: (one["tuned"]["score"], one["row"]))[:_SHOWN_RATINGS]
    judge = request.team.judgesettings.first()
    asked = judge if found is None or not found.is_open else None
    return {
        "judge": judge,
        "judgement": found,
        "worst_rated": worst,
        "expected": services.expected_of(asked, evaluation) if asked else None,
        "currency": settings.NODE_HOUR_CURRENCY,
    }


def _evaluation(request: TeamRequest, pk: uuid.UUID) -> Evaluation:
    evaluation: Evaluation | None = getattr(run_of(request, pk), "evaluation", None)
    if evaluation is None:
        raise Http404
    return evaluation

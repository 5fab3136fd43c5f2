"""Runs of all teams, for platform admins: what works, what waits, what ended; stopping and moving up."""

from __future__ import annotations

from uuid import UUID

from django.contrib import messages
from django.core.paginator import Paginator
from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from experiments import scheduling, services
from experiments.models import Priority, Run
from portal import search
from portal.access import platform_admin_view
from portal.actors import Actor
from portal.errors import InvalidInput
from portal.platform_forms import ReasonForm, applied
from portal.views.platform.actions import attempt

_PER_PAGE = 25
_WAITING_SHOWN = 25
_SHOWN = ("experiment", "team", "node", "created_by", "base_model")
_RELATED = ("experiment__team", "team", "node", "created_by", "base_model")


@platform_admin_view
def runs(request: HttpRequest) -> HttpResponse:
    """Show what works on which node, what waits at which place and why, and what ended, by a word if one is given."""
    query = search.typed(request)
    known = Run.unscoped.select_related(*_SHOWN).defer("hyperparameters", "facts")
    found = known.filter(ended_at__isnull=False)
    if query:
        found = found.filter(
            Q(experiment__name__icontains=query) | Q(team__slug=query) | Q(team__name__icontains=query)
        )
    places = scheduling.queue_places(None)
    ended = Paginator(found.order_by("-ended_at", "-pk"), _PER_PAGE)
    context = {
        "query": query,
        "active": known.filter(status__in=Run.ACTIVE).order_by("node__name", "slot"),
        "places": places[:_WAITING_SHOWN],
        "waiting_count": len(places),
        "page": ended.get_page(request.GET.get("page")),
        "priorities": Priority.choices,
    }
    return render(request, "platform/runs.html", context)


@platform_admin_view
def cancel(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Ask why, and stop a run; its team reads the reason in its log."""
    run = get_object_or_404(Run.unscoped.select_related(*_RELATED), pk=pk)
    form = ReasonForm(request.POST or None)
    if applied(form, services.cancel_run, run=run, actor=Actor.of(request)):
        messages.success(request, _("%(run)s stops after its current step.") % {"run": run})
        return redirect("experiments:platform_runs")
    return render(request, "platform/run_cancel.html", {"run": run, "form": form}, status=400 if form.errors else 200)


@platform_admin_view
@require_POST
def priority(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Let a waiting run go before or after the others of its team."""
    run = get_object_or_404(Run.unscoped.select_related(*_RELATED), pk=pk)
    try:
        chosen = Priority(int(request.POST.get("priority", "")))
    except ValueError:
        raise InvalidInput(_("Choose one of the priorities low, normal and high."), param="priority") from None
    attempt(request, _("Saved."), services.set_priority, run=run, priority=chosen)
    return redirect("experiments:platform_runs")

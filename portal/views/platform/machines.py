"""Nodes with their slots, and the base models that teams may tune."""

from __future__ import annotations

from django.contrib import messages
from django.db.models import Count
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from portal import base_models
from portal import nodes as node_services
from portal.access import platform_admin_view
from portal.actors import Actor
from portal.models import BaseModel, Node
from portal.platform_forms import SlotsForm, applied
from portal.views.platform.actions import attempt


@platform_admin_view
def nodes(request: HttpRequest) -> HttpResponse:
    """List the nodes with what they are doing."""
    known = Node.objects.order_by("name").prefetch_related("engines__base_model")
    working = ["assigned", "running"]
    cards = [
        (
            node,
            node.runs.filter(status__in=working).select_related("experiment", "team").order_by("slot"),
            node.placements.count(),
            SlotsForm(node=node),
        )
        for node in known
    ]
    return render(request, "platform/nodes.html", {"cards": cards})


@platform_admin_view
@require_POST
def drain(request: HttpRequest, name: str) -> HttpResponse:
    """Let a node take nothing new, or take work again."""
    node = get_object_or_404(Node, name=name)
    is_draining = request.POST.get("drain") == "yes"
    said = (
        _("%(node)s finishes what it does and takes nothing new.") if is_draining else _("%(node)s takes work again.")
    )
    attempt(request, said % {"node": node}, node_services.set_draining, node=node, is_draining=is_draining)
    return redirect("platform:nodes")


@platform_admin_view
@require_POST
def slots(request: HttpRequest, name: str) -> HttpResponse:
    """Change how many runs a node works on at the same time."""
    node = get_object_or_404(Node, name=name)
    form = SlotsForm(request.POST, node=node)
    if applied(form, node_services.set_slots, node=node, actor=Actor.of(request)):
        messages.success(
            request, _("%(node)s works on up to %(slots)d runs now.") % {"node": node, "slots": node.slots}
        )
    else:
        messages.error(request, str(next(iter(form.errors.values()))[0]))
    return redirect("platform:nodes")


@platform_admin_view
@require_POST
def remove(request: HttpRequest, name: str) -> HttpResponse:
    """Forget a node that is gone."""
    node = get_object_or_404(Node, name=name)
    attempt(request, _("%(node)s is forgotten.") % {"node": node}, node_services.remove_node, node=node)
    return redirect("platform:nodes")


@platform_admin_view
def models(request: HttpRequest) -> HttpResponse:
    """List the base models, allowed or not, with how much they are used."""
    known = BaseModel.objects.annotate(run_count=Count("runs", distinct=True))
    return render(request, "platform/models.html", {"models": known})


@platform_admin_view
@require_POST
def allow_model(request: HttpRequest, slug: str) -> HttpResponse:
    """Put a base model on the list of what teams may tune, or take it off."""
    model = get_object_or_404(BaseModel, slug=slug)
    allowed = request.POST.get("allow") == "yes"
    base_models.set_allowed(model=model, allowed=allowed, actor=Actor.of(request))
    return redirect("platform:models")

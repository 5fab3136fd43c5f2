"""Webhook endpoints of the team, and what was sent to each."""

from __future__ import annotations

from uuid import UUID

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST

from deployments.models import WebhookEndpoint
from deployments.webhooks import services
from deployments.webhooks.forms import EndpointForm, RotateSecretForm, SampleForm
from portal.access import TeamRequest, team_view
from portal.actors import Actor
from portal.errors import PortalError
from portal.impersonation import refuse_if_impersonated
from portal.models import Role
from portal.platform_forms import applied
from portal.rls import team_scope

PER_PAGE = 25


def _endpoint(request: TeamRequest, pk: UUID) -> WebhookEndpoint:
    return get_object_or_404(request.team.webhookendpoints.select_related("team"), pk=pk)


@team_view(role=Role.ADMIN)
@require_http_methods(["GET", "HEAD", "POST"])
def index(request: TeamRequest) -> HttpResponse:
    """List endpoints; make one and show its secret this once."""
    form = EndpointForm(request.POST or None)
    created = text = None
    if request.method == "POST":
        refuse_if_impersonated(request)
        if form.is_valid():
            try:
                created, text = services.create(team=request.team, actor=Actor.of(request), **form.cleaned_data)
                form = EndpointForm()
            except PortalError as error:
                form.add_error(error.param if error.param in form.fields else None, error.message)
    context = {"form": form, "created": created, "text": text, "endpoints": request.team.webhookendpoints.all()}
    return render(request, "deployments/webhooks.html", context, status=400 if form.errors else 200)


@team_view(role=Role.ADMIN)
@require_http_methods(["GET", "HEAD", "POST"])
def detail(request: TeamRequest, pk: UUID) -> HttpResponse:
    """Show an endpoint with its last deliveries; change it."""
    endpoint = _endpoint(request, pk)
    shown = {"name": endpoint.name, "url": endpoint.url, "event_types": endpoint.event_types}
    form = EndpointForm(request.POST or None, initial=shown)
    if applied(form, services.change, endpoint=endpoint, actor=Actor.of(request)):
        messages.success(request, _("Saved."))
        return redirect("deployments:webhooks_detail", request.team.slug, pk)
    deliveries = Paginator(request.team.webhookdeliverys.filter(endpoint=endpoint), PER_PAGE)
    context = {
        "endpoint": endpoint,
        "form": form,
        "sample_form": SampleForm(),
        "signs_with_old": endpoint.signs_with_old(timezone.now()),
        "page": deliveries.get_page(request.GET.get("page")),
    }
    return render(request, "deployments/webhook.html", context, status=400 if form.errors else 200)


@team_view(role=Role.ADMIN, streams=True)
@require_POST
def test(request: TeamRequest, pk: UUID) -> HttpResponse:
    """Send a sample and say what the receiver answered; no transaction is open while it is waited for."""
    form = SampleForm(request.POST)
    event_type = form.cleaned_data["event_type"] if form.is_valid() else ""
    with team_scope(request.team.pk):
        endpoint = _endpoint(request, pk)
        delivery = services.prepare_test(endpoint=endpoint, actor=Actor.of(request), event_type=event_type)
    answer = services.run_test(delivery)
    if answer.is_good:
        messages.success(request, _("The endpoint answers HTTP %(status)d.") % {"status": answer.status})
    else:
        messages.error(request, answer.problem)
    return redirect("deployments:webhooks_detail", request.team.slug, pk)


@team_view(role=Role.ADMIN)
@require_http_methods(["GET", "HEAD", "POST"])
def rotate(request: TeamRequest, pk: UUID) -> HttpResponse:
    """Give an endpoint a new secret, shown this once; ask before whether the old one shall sign as well for a day."""
    endpoint = _endpoint(request, pk)
    form = RotateSecretForm(request.POST if request.method == "POST" else None, initial={"keep_old": True})
    text = None
    if request.method == "POST" and form.is_valid():
        refuse_if_impersonated(request)
        keep_old = form.cleaned_data["keep_old"]
        text = services.rotate_secret(endpoint=endpoint, actor=Actor.of(request), keep_old=keep_old)
    context = {"endpoint": endpoint, "form": form, "text": text}
    return render(request, "deployments/webhook_rotate.html", context)


@team_view(role=Role.ADMIN)
@require_POST
def switch(request: TeamRequest, pk: UUID) -> HttpResponse:
    """Switch an endpoint off, or on again."""
    is_active = request.POST.get("active") == "1"
    services.change(endpoint=_endpoint(request, pk), actor=Actor.of(request), is_active=is_active)
    messages.success(request, _("Events are sent there again.") if is_active else _("Nothing is sent there now."))
    return redirect("deployments:webhooks_detail", request.team.slug, pk)


@team_view(role=Role.ADMIN)
@require_POST
def delete(request: TeamRequest, pk: UUID) -> HttpResponse:
    """Forget an endpoint."""
    endpoint = _endpoint(request, pk)
    services.delete(endpoint=endpoint, actor=Actor.of(request))
    messages.success(request, _("“%(name)s” is deleted.") % {"name": endpoint.name})
    return redirect("deployments:webhooks", request.team.slug)


@team_view(role=Role.ADMIN)
@require_POST
def resend(request: TeamRequest, pk: UUID) -> HttpResponse:
    """Send a delivery again."""
    delivery = get_object_or_404(request.team.webhookdeliverys.select_related("endpoint__team"), pk=pk)
    try:
        services.resend(delivery=delivery, actor=Actor.of(request))
        messages.success(request, _("It is on its way again."))
    except PortalError as error:
        messages.error(request, error.message)
    return redirect("deployments:webhooks_detail", request.team.slug, delivery.endpoint_id)

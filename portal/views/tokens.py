"""The team's API tokens and the service accounts to which they may belong."""

from __future__ import annotations

from datetime import timedelta

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST

from portal import tokens
from portal.access import TeamRequest, team_view
from portal.actors import Actor
from portal.errors import PortalError
from portal.forms import RotateForm, ServiceAccountForm, TokenForm
from portal.impersonation import refuse_if_impersonated
from portal.models import Role

_SHOWN = ("created_by", "service_account", "replaced_by")


@team_view(role=Role.EDITOR)
@require_http_methods(["GET", "HEAD", "POST"])
def index(request: TeamRequest) -> HttpResponse:
    """List tokens; create one and show its text this once."""
    form = TokenForm(request.POST or None, team=request.team)
    created = text = None
    if request.method == "POST":
        refuse_if_impersonated(request)
    if request.method == "POST" and form.is_valid():
        try:
            created, text = tokens.create_token(
                team=request.team, actor=Actor.of(request), owner=request.user, **form.cleaned_data
            )
            form = TokenForm(team=request.team)
        except PortalError as error:
            form.add_error(error.param if error.param in form.fields else None, error.message)
    context = {
        "form": form,
        "created": created,
        "text": text,
        "tokens": request.team.apitokens.select_related(*_SHOWN),
        "has_advanced_errors": any(name in form.errors for name in ("allowed_models", "networks", "expires_at")),
    }
    return render(request, "portal/tokens.html", context, status=400 if form.errors else 200)


@team_view(role=Role.EDITOR)
@require_POST
def revoke(request: TeamRequest, pk: str) -> HttpResponse:
    """Revoke a token at once."""
    token = get_object_or_404(request.team.apitokens, pk=pk)
    tokens.revoke_token(token=token, actor=Actor.of(request))
    messages.success(request, _("The token “%(name)s” is revoked.") % {"name": token.name})
    return redirect("portal:tokens", request.team.slug)


@team_view(role=Role.EDITOR)
@require_http_methods(["GET", "HEAD", "POST"])
def rotate(request: TeamRequest, pk: str) -> HttpResponse:
    """Replace a token by a new one, whose text is shown this once; ask before how long the old one shall work."""
    token = get_object_or_404(request.team.apitokens.select_related(*_SHOWN), pk=pk)
    form = RotateForm(request.POST or None)
    successor = text = None
    if request.method == "POST" and form.is_valid():
        overlap = timedelta(hours=form.cleaned_data["overlap_hours"])
        successor, text = tokens.rotate_token(token=token, actor=Actor.of(request), overlap=overlap)
        token.refresh_from_db()
    context = {"form": form, "token": token, "successor": successor, "text": text}
    return render(request, "portal/rotate_token.html", context, status=400 if form.errors else 200)


@team_view(role=Role.EDITOR)
@require_http_methods(["GET", "HEAD", "POST"])
def service_accounts(request: TeamRequest) -> HttpResponse:
    """List service accounts with their tokens; create one."""
    form = ServiceAccountForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            account = tokens.create_service_account(
                team=request.team, actor=Actor.of(request), name=form.cleaned_data["name"]
            )
        except PortalError as error:
            form.add_error(error.param, error.message)
        else:
            messages.success(
                request, _("“%(name)s” is there. Now create a token that belongs to it.") % {"name": account.name}
            )
            return redirect("portal:service_accounts", request.team.slug)
    accounts = request.team.serviceaccounts.select_related("created_by").prefetch_related("tokens")
    context = {"form": form, "accounts": accounts}
    return render(request, "portal/service_accounts.html", context, status=400 if form.errors else 200)


@team_view(role=Role.EDITOR)
@require_POST
def switch(request: TeamRequest, pk: str) -> HttpResponse:
    """Switch a service account off, or on again."""
    account = get_object_or_404(request.team.serviceaccounts, pk=pk)
    is_active = request.POST.get("active") == "1"
    tokens.switch_service_account(account=account, actor=Actor.of(request), is_active=is_active)
    text = _("The tokens of “%(name)s” work again.") if is_active else _("The tokens of “%(name)s” are refused now.")
    messages.success(request, text % {"name": account.name})
    return redirect("portal:service_accounts", request.team.slug)

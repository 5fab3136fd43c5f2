"""The team's API tokens."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from portal import tokens
from portal.access import TeamRequest, team_view
from portal.actors import Actor
from portal.errors import PortalError
from portal.forms import TokenForm
from portal.models import Role


@team_view(role=Role.EDITOR)
def index(request: TeamRequest) -> HttpResponse:
    """List tokens; create one and show its text this once."""
    form = TokenForm(request.POST or None)
    created = text = None
    if request.method == "POST" and form.is_valid():
        try:
            created, text = tokens.create_token(
                team=request.team, actor=Actor.of(request), owner=request.user, **form.cleaned_data
            )
            form = TokenForm()
        except PortalError as error:
            form.add_error(error.param if error.param in form.fields else None, error.message)
    known = request.team.apitokens.select_related("created_by")
    context = {"form": form, "created": created, "text": text, "tokens": known}
    return render(request, "portal/tokens.html", context, status=400 if form.errors else 200)


@team_view(role=Role.EDITOR)
@require_POST
def revoke(request: TeamRequest, pk: str) -> HttpResponse:
    """Revoke a token at once."""
    token = get_object_or_404(request.team.apitokens, pk=pk)
    tokens.revoke_token(token=token, actor=Actor.of(request))
    messages.success(request, _("The token “%(name)s” is revoked.") % {"name": token.name})
    return redirect("portal:tokens", request.team.slug)

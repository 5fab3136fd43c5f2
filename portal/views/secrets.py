"""The team's secrets: stored and forgotten here, never shown."""

from __future__ import annotations

from uuid import UUID

from django.contrib import messages
from django.db.models import QuerySet
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_POST

from portal import secrets
from portal.access import TeamRequest, team_view
from portal.actors import Actor
from portal.forms import SecretForm
from portal.impersonation import refuse_if_impersonated
from portal.models import Role, TeamSecret
from portal.platform_forms import applied


@team_view(role=Role.ADMIN)
@sensitive_post_parameters("text")
def index(request: TeamRequest) -> HttpResponse:
    """List the names of secrets; store one."""
    form = SecretForm(request.POST or None)
    if request.method == "POST":
        refuse_if_impersonated(request)
    if applied(form, secrets.store, team=request.team, actor=Actor.of(request)):
        messages.success(request, _("Stored. It cannot be read again, only replaced."))
        return redirect("portal:secrets", request.team.slug)
    context = {"form": form, "secrets": _stored(request).select_related("created_by")}
    return render(request, "portal/secrets.html", context, status=400 if form.errors else 200)


@team_view(role=Role.ADMIN)
@require_POST
def delete(request: TeamRequest, pk: UUID) -> HttpResponse:
    """Forget a secret for good."""
    refuse_if_impersonated(request)
    secret = get_object_or_404(_stored(request).select_related("team"), pk=pk)
    secrets.delete(secret=secret, actor=Actor.of(request))
    messages.success(request, _("The secret “%(name)s” is deleted.") % {"name": secret.name})
    return redirect("portal:secrets", request.team.slug)


def _stored(request: TeamRequest) -> QuerySet[TeamSecret]:
    """Return the secrets that people keep; those of webhook endpoints come and go with their endpoints."""
    kept: QuerySet[TeamSecret] = request.team.teamsecrets.exclude(kind=TeamSecret.Kind.WEBHOOK)
    return kept

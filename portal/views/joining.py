"""From an invitation into a team, and to a second factor where one is needed."""

from __future__ import annotations

from typing import cast

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from portal import invitations, second_factor
from portal.access import public_view, signed_in_view
from portal.accounts import sign_up
from portal.actors import Actor
from portal.errors import NotFound
from portal.models import Invitation, User


@public_view
def invitation(request: HttpRequest, token: str) -> HttpResponse:
    """Show an invitation to whoever has its link; a signed-in owner of the address joins with a POST."""
    found = invitations.find(token)
    if request.user.is_authenticated:
        if request.method == "POST":
            return _join(request, found)
        fits = invitations.is_for(found, request.user)
        return render(request, "portal/invitation.html", {"invitation": found, "fits": fits})
    by_mail = invitations.came_by_mail(found, request.GET.get("mailed", ""))
    has_account = bool(invitations.owners_of(found.email))
    sign_up.remember(request, found, proves_address=by_mail)
    context = {"invitation": found, "has_account": has_account, "needs_mail": not by_mail and not has_account}
    return render(request, "portal/invitation.html", context)


@signed_in_view
@require_POST
def accept(request: HttpRequest, pk: str) -> HttpResponse:
    """Accept an invitation that the start page listed."""
    own = invitations.waiting_for(cast(User, request.user))
    found = next((one for one in own if str(one.pk) == str(pk)), None)
    if found is None:
        raise NotFound(_("This invitation was used or withdrawn, or is too old."), code="invitation_over")
    return _join(request, found)


def _join(request: HttpRequest, found: Invitation) -> HttpResponse:
    invitations.accept(invitation=found, actor=Actor.of(request))
    sign_up.forget(request)
    messages.success(request, _("Welcome to the team %(team)s.") % {"team": found.team})
    return redirect("portal:dashboard", found.team.slug)


@signed_in_view
def second_factor_needed(request: HttpRequest) -> HttpResponse:
    """Say why a second factor is needed, and lead to setting one up."""
    back = request.GET.get("next", "")
    safe = url_has_allowed_host_and_scheme(back, allowed_hosts={request.get_host()}, require_https=request.is_secure())
    context = {"back": back if safe else "/", "is_set_up": second_factor.has_second_factor(cast(User, request.user))}
    return render(request, "portal/second_factor_needed.html", context)

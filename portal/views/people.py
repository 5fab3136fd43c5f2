"""Who is in the team, in which role; inviting, removing and leaving."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from portal import invitations, mail, second_factor, teams
from portal.access import TeamRequest, team_view
from portal.actors import Actor
from portal.errors import PortalError
from portal.forms import InvitationForm, RoleForm
from portal.models import Invitation, Role


@team_view()
def members(request: TeamRequest) -> HttpResponse:
    """List the members and their roles; admins also see open invitations and second factors."""
    return _page(request, InvitationForm())


@team_view(role=Role.ADMIN)
@require_POST
def invite(request: TeamRequest) -> HttpResponse:
    """Invite an address, mail the link, and show it this once."""
    form = InvitationForm(request.POST)
    if form.is_valid():
        try:
            invitation, token = invitations.invite(team=request.team, actor=Actor.of(request), **form.cleaned_data)
            return _handed_out(request, invitation, token)
        except PortalError as error:
            form.add_error(error.param if error.param in form.fields else None, error.message)
    return _page(request, form, status=400)


@team_view(role=Role.ADMIN)
@require_POST
def resend(request: TeamRequest, pk: str) -> HttpResponse:
    """Give an invitation a new link, mail it, and show it this once."""
    invitation = get_object_or_404(request.team.invitations.select_related("team", "invited_by"), pk=pk)
    token = invitations.renew(invitation=invitation, actor=Actor.of(request))
    return _handed_out(request, invitation, token)


@team_view(role=Role.ADMIN)
@require_POST
def revoke(request: TeamRequest, pk: str) -> HttpResponse:
    """Withdraw an invitation."""
    invitation = get_object_or_404(request.team.invitations, pk=pk)
    invitations.revoke(invitation=invitation, actor=Actor.of(request))
    messages.success(request, _("The invitation for %(email)s is withdrawn.") % {"email": invitation.email})
    return redirect("portal:members", request.team.slug)


@team_view(role=Role.ADMIN)
@require_POST
def change_role(request: TeamRequest, pk: str) -> HttpResponse:
    """Give a member another role."""
    membership = get_object_or_404(request.team.memberships.select_related("user", "team"), pk=pk)
    form = RoleForm(request.POST)
    if form.is_valid() and form.cleaned_data["role"] != membership.role:
        teams.change_role(membership=membership, actor=Actor.of(request), role=Role(form.cleaned_data["role"]))
        text = _("%(person)s is now: %(role)s.")
        messages.success(request, text % {"person": membership.user, "role": membership.get_role_display()})
    return redirect("portal:members", request.team.slug)


@team_view(role=Role.ADMIN)
def remove(request: TeamRequest, pk: str) -> HttpResponse:
    """Ask, then take a member out of the team."""
    membership = get_object_or_404(request.team.memberships.select_related("user", "team"), pk=pk)
    if request.method == "POST":
        teams.remove_member(membership=membership, actor=Actor.of(request))
        messages.success(request, _("%(person)s is no longer in the team.") % {"person": membership.user})
        return redirect("portal:members", request.team.slug)
    context = {
        "title": _("Remove %(person)s from the team?") % {"person": membership.user},
        "message": _("They lose access at once, and their API tokens for this team stop. What they made stays."),
        "action": _("Remove"),
        "cancel_url": reverse("portal:members", args=[request.team.slug]),
        "danger": True,
    }
    return render(request, "components/confirm.html", context)


@team_view()
def leave(request: TeamRequest) -> HttpResponse:
    """Ask, then let a member go."""
    if request.method == "POST":
        membership = request.team.memberships.select_related("user", "team").get(user=request.user)
        teams.remove_member(membership=membership, actor=Actor.of(request))
        messages.success(request, _("You left the team %(team)s.") % {"team": request.team})
        return redirect("portal:home")
    context = {
        "title": _("Leave the team %(team)s?") % {"team": request.team},
        "message": _("You lose access at once, and your API tokens for this team stop. What you made stays."),
        "action": _("Leave the team"),
        "cancel_url": reverse("portal:members", args=[request.team.slug]),
        "danger": True,
    }
    return render(request, "components/confirm.html", context)


@team_view(role=Role.ADMIN)
@require_POST
def demand_second_factor(request: TeamRequest) -> HttpResponse:
    """Demand a second factor of all members, or no longer."""
    required = request.POST.get("required") == "yes"
    teams.set_mfa_required(team=request.team, required=required, actor=Actor.of(request))
    on = _("From now on, members need a second factor.")
    messages.success(request, on if required else _("Members no longer need a second factor."))
    return redirect("portal:members", request.team.slug)


def _page(request: TeamRequest, form: InvitationForm, *, status: int = 200, **more: object) -> HttpResponse:
    memberships = list(request.team.memberships.select_related("user"))
    context: dict[str, object] = {"memberships": memberships, "roles": Role.choices, **more}
    if request.role == Role.ADMIN:
        waiting = request.team.invitations.filter(accepted_at=None, revoked_at=None).select_related("invited_by")
        context |= {
            "form": form,
            "invitations": waiting,
            "protected": second_factor.holders([membership.user_id for membership in memberships]),
        }
    return render(request, "portal/members.html", context, status=status)


def _handed_out(request: TeamRequest, invitation: Invitation, token: str) -> HttpResponse:
    link = request.build_absolute_uri(reverse("portal:invitation", args=[token]))
    return _page(
        request,
        InvitationForm(),
        invitation=invitation,
        link=link,
        mailed=invitations.send(invitation, link),
        mail_is_configured=mail.is_configured(),
    )

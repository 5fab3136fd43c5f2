"""Signing up with an invitation: the address is the invited one, and joining the team is part of it."""

from __future__ import annotations

from typing import Any

from allauth.account.forms import SignupForm
from allauth.core import context
from django.http import HttpRequest

from portal import invitations
from portal.models import Invitation

_SESSION_KEY = "invitation"


def remember(request: HttpRequest, invitation: Invitation, *, came_by_mail: bool) -> None:
    """Open sign-up for this browser, for the invited address."""
    request.session[_SESSION_KEY] = {"pk": str(invitation.pk), "came_by_mail": came_by_mail}


def remembered(request: HttpRequest) -> Invitation | None:
    """Return the invitation with which this browser may sign up, if it is still open."""
    kept = request.session.get(_SESSION_KEY)
    return invitations.find_open(kept["pk"]) if kept else None


def forget(request: HttpRequest) -> None:
    """Close sign-up for this browser again."""
    request.session.pop(_SESSION_KEY, None)


def owns_address(request: HttpRequest, email: str) -> bool:
    """Return whether this browser opened the mailed link of an invitation to this address."""
    kept = request.session.get(_SESSION_KEY)
    invitation = remembered(request)
    return bool(kept and kept["came_by_mail"] and invitation and invitation.email == email.lower())


class SignUpForm(SignupForm):  # type: ignore[misc]
    """allauth's form, whose address is the invited one and cannot be changed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        invitation = remembered(context.request)
        self.fields["email"].disabled = True
        self.fields["email"].initial = invitation.email if invitation else ""

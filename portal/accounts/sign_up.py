"""Signing up with an invitation: the address is the invited one, and joining the team is part of it."""

from __future__ import annotations

from typing import Any

from allauth.account.forms import SignupForm
from allauth.core import context
from django.http import HttpRequest

from portal import invitations
from portal.models import Invitation

_SESSION_KEY = "invitation"


def remember(request: HttpRequest, invitation: Invitation, *, proves_address: bool) -> None:
    """Remember which team this browser is about to join; a link that proves the address also opens sign-up."""
    request.session[_SESSION_KEY] = {"pk": str(invitation.pk), "proves_address": proves_address}


def remembered(request: HttpRequest) -> Invitation | None:
    """Return the invitation whose link this browser showed, if it is still open."""
    kept = request.session.get(_SESSION_KEY)
    return invitations.find_open(kept["pk"]) if kept else None


def is_open(request: HttpRequest) -> bool:
    """Return whether this browser may sign up with a password: its link has to prove the address.

    Whoever was only shown a link must not choose the password of somebody else's account.
    """
    kept = request.session.get(_SESSION_KEY)
    return bool(kept and kept.get("proves_address")) and remembered(request) is not None


def forget(request: HttpRequest) -> None:
    """Close sign-up for this browser again."""
    request.session.pop(_SESSION_KEY, None)


def owns_address(request: HttpRequest, email: str) -> bool:
    """Return whether this browser showed a link that proves this address."""
    invitation = remembered(request) if is_open(request) else None
    return invitation is not None and invitation.email == email.lower()


class SignUpForm(SignupForm):  # type: ignore[misc]
    """allauth's form, whose address is the invited one and cannot be changed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        invitation = remembered(context.request)
        self.fields["email"].disabled = True
        self.fields["email"].initial = invitation.email if invitation else ""

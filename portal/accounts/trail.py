"""What people change about how they sign in leaves a trace; django-allauth tells it by signals."""

from __future__ import annotations

from typing import Any

from allauth.account import signals as account
from allauth.mfa import signals as mfa
from allauth.socialaccount import signals as social
from django.dispatch import receiver
from django.http import HttpRequest

from portal import audit
from portal.actors import Actor
from portal.client_address import client_address
from portal.models import User

_ONCE = "portal.accounts.trail"


def _note(action: str, user: User, request: HttpRequest, **detail: str) -> None:
    request_id = getattr(request, "request_id", "")
    actor = Actor(
        user=user,
        ip=client_address(request),
        request_id=request_id,
        impersonator=getattr(request, "impersonator", None),
    )
    audit.record(None, actor, action, user, **detail)


@receiver([account.password_set, account.password_changed, account.password_reset], dispatch_uid=_ONCE)
def note_new_password(sender: object, signal: object, request: HttpRequest, user: User, **_more: Any) -> None:
    """Note that a password was set, changed, or chosen anew after a mail."""
    how = "reset" if signal is account.password_reset else "changed"
    _note("person.password_changed", user, request, how=how)


@receiver(account.email_changed, dispatch_uid=_ONCE)
def note_new_address(sender: object, request: HttpRequest, user: User, **_more: Any) -> None:
    """Note that a person's address is another one now."""
    _note("person.email_changed", user, request)


@receiver(account.user_signed_up, dispatch_uid=_ONCE)
def note_sign_up(sender: object, request: HttpRequest, user: User, **_more: Any) -> None:
    """Note that somebody made an account."""
    _note("person.signed_up", user, request)


@receiver([mfa.authenticator_added, mfa.authenticator_reset, mfa.authenticator_removed], dispatch_uid=_ONCE)
def note_second_factor(
    sender: object, signal: object, request: HttpRequest, user: User, authenticator: Any, **_more: Any
) -> None:
    """Note that a second factor came or went."""
    removed = signal is mfa.authenticator_removed
    action = "person.second_factor_removed" if removed else "person.second_factor_added"
    _note(action, user, request, kind=str(authenticator.type))


@receiver(social.social_account_added, dispatch_uid=_ONCE)
def note_connection(sender: object, request: HttpRequest, sociallogin: Any, **_more: Any) -> None:
    """Note that a sign-in provider was connected."""
    _note("person.provider_connected", sociallogin.user, request, provider=sociallogin.account.provider)


@receiver(social.social_account_removed, dispatch_uid=_ONCE)
def note_disconnection(sender: object, request: HttpRequest, socialaccount: Any, **_more: Any) -> None:
    """Note that a sign-in provider was disconnected."""
    _note("person.provider_disconnected", socialaccount.user, request, provider=socialaccount.provider)

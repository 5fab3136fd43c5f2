"""Where django-allauth asks the portal about people who come from an identity provider."""

from __future__ import annotations

from typing import Any

from allauth.account.models import EmailAddress
from allauth.core.exceptions import ImmediateHttpResponse
from allauth.socialaccount.adapter import DefaultSocialAccountAdapter
from allauth.socialaccount.models import SocialLogin
from django.http import HttpRequest
from django.shortcuts import render
from django.utils.translation import gettext as _

from portal import invitations
from portal.models import User
from portal.oidc.provider import configured


class SocialAdapter(DefaultSocialAccountAdapter):  # type: ignore[misc]
    """Confirmed addresses only, no account taken over by its address, and nobody in whom no team expects."""

    def pre_social_login(self, request: HttpRequest, sociallogin: SocialLogin) -> None:
        """Refuse people whose address the provider did not confirm, and addresses that have an account already."""
        name = sociallogin.provider.name
        addresses = [address.email for address in sociallogin.email_addresses if address.verified]
        if not addresses:
            _refuse(request, _("%(name)s has not confirmed your e-mail address. Ask its admins.") % {"name": name})
        if sociallogin.is_existing or sociallogin.state.get("process") == "connect":
            return
        if _is_taken(addresses):
            text = _(
                "There is an account with your address already. Sign in to it the way you do, then connect %(name)s "
                "under Your account → Connections."
            )
            _refuse(request, text % {"name": name})

    def is_open_for_signup(self, request: HttpRequest, sociallogin: SocialLogin) -> bool:
        """Let in new people whom a group or an invitation leads into a team."""
        provider = configured(sociallogin.account.provider)
        if provider and provider.roles_of(sociallogin.account.extra_data.get("groups", [])):
            return True
        addresses = [address.email for address in sociallogin.email_addresses if address.verified]
        return invitations.is_any_open_for(addresses)

    def populate_user(self, request: HttpRequest, sociallogin: SocialLogin, data: dict[str, Any]) -> User:
        """Take over address and name."""
        person: User = sociallogin.user
        person.email = (data.get("email") or "").lower()
        person.name = str(data.get("name") or data.get("username") or "")[:120]
        return person


def _is_taken(addresses: list[str]) -> bool:
    known = EmailAddress.objects.filter(email__in=addresses, verified=True).exists()
    return bool(known or User.objects.filter(email__in=addresses).exists())


def _refuse(request: HttpRequest, message: str) -> None:
    page = render(request, "socialaccount/authentication_error.html", {"message": message}, status=403)
    raise ImmediateHttpResponse(page)

"""Where django-allauth asks the portal: who may sign up, what is counted, how mail leaves, how secrets are kept."""

from __future__ import annotations

from typing import Any, cast

from allauth.account.adapter import DefaultAccountAdapter
from allauth.core.internal import ratelimit
from allauth.mfa.adapter import DefaultMFAAdapter
from django.contrib import messages
from django.contrib.auth.models import AbstractBaseUser
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.translation import gettext_lazy as _

from portal import invitations, mail
from portal.accounts import sealing, sign_up
from portal.actors import Actor
from portal.client_address import client_address
from portal.errors import PortalError
from portal.models import User
from portal.oidc.groups import apply_groups
from portal.oidc.provider import configured
from portal.oidc.views import sign_out_url


class AccountAdapter(DefaultAccountAdapter):  # type: ignore[misc]
    """Sign-up by invitation only, guesses counted per person and network, mail that never breaks a page."""

    error_messages = {
        **DefaultAccountAdapter.error_messages,
        "email_password_mismatch": _("This e-mail address and password do not match."),
        "too_many_login_attempts": _("Too many tries. Wait ten minutes and try again."),
    }

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        """Nobody signs up unasked."""
        return sign_up.is_open(request)

    def is_email_verified(self, request: HttpRequest, email: str) -> bool:
        """Whoever opened the mailed link of an invitation owns the address."""
        return bool(super().is_email_verified(request, email)) or sign_up.owns_address(request, email)

    def post_login(self, request: HttpRequest, user: User, **how: Any) -> HttpResponse:
        """Let a provider's groups take effect, and bring who just signed up into the team that invited them."""
        sociallogin = (how.get("signal_kwargs") or {}).get("sociallogin")
        provider = configured(sociallogin.account.provider) if sociallogin else None
        if sociallogin is not None and provider is not None:
            groups = sociallogin.account.extra_data.get("groups", [])
            apply_groups(person=user, provider=provider, groups=groups, actor=Actor.of(request))
        invitation = sign_up.remembered(request) if how.get("signup") else None
        if invitation is not None:
            sign_up.forget(request)
            try:
                invitations.accept(invitation=invitation, actor=Actor.of(request))
                how["redirect_url"] = reverse("portal:dashboard", args=[invitation.team.slug])
            except PortalError as error:
                messages.warning(request, error.message)
        return cast(HttpResponse, super().post_login(request, user, **how))

    def pre_authenticate(self, request: HttpRequest, **credentials: Any) -> None:
        """Count the guesses at one person from everywhere, besides those from one network that allauth counts.

        Without the second count a botnet guesses freely; without the first, anybody could lock anybody out.
        """
        super().pre_authenticate(request, **credentials)
        email = str(credentials.get("email", "")).lower()
        usage = ratelimit.consume(request, app="allauth.account", action="login_failed_account", key=email)
        if not usage:
            raise self.validation_error("too_many_login_attempts")
        self._login_failed_rl_usage.usage += usage.usage

    def get_logout_redirect_url(self, request: HttpRequest) -> str:
        """Sign out at the provider as well, where the operator wants that."""
        return sign_out_url(request) or str(super().get_logout_redirect_url(request))

    def get_client_ip(self, request: HttpRequest) -> str:
        """Return the caller's address as the whole portal sees it; callers without one are counted together."""
        return client_address(request) or "::"

    def _get_login_attempts_cache_key(self, request: HttpRequest, **credentials: Any) -> str:
        return f"{ratelimit.get_ip(request)}:{str(credentials.get('email', '')).lower()}"

    def send_mail(self, template_prefix: str, email: str, context: dict[str, Any]) -> None:
        """Send a mail; a mail server that is down changes no page, so that nobody learns which addresses are known."""
        with mail.failures_logged(template_prefix):
            super().send_mail(template_prefix, email, context)

    def format_email_subject(self, subject: str) -> str:
        """Leave the subject alone: the sender's name says where it comes from."""
        return str(subject)


class MfaAdapter(DefaultMFAAdapter):  # type: ignore[misc]
    """Second factors, whose secrets are kept sealed."""

    def get_totp_issuer(self) -> str:
        """Return the name under which an authenticator app lists the account."""
        return "Tuneport"

    def encrypt(self, text: str) -> str:
        """Seal a secret before it goes to the database."""
        return sealing.seal(text)

    def decrypt(self, encrypted_text: str) -> str:
        """Open what `encrypt` sealed."""
        return sealing.unseal(encrypted_text)

    def get_public_key_credential_rp_entity(self) -> dict[str, str]:
        """Name the portal in the browser's passkey dialog."""
        return {**super().get_public_key_credential_rp_entity(), "name": "Tuneport"}


def display_name(user: AbstractBaseUser) -> str:
    """Return how allauth's pages and mails address a person."""
    return str(user)

"""Where django-allauth asks the portal: who may sign up, what is counted, how mail leaves, how secrets are kept."""

from __future__ import annotations

import logging
from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from allauth.core.internal import ratelimit
from allauth.mfa.adapter import DefaultMFAAdapter
from django.contrib.auth.models import AbstractBaseUser
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from portal import mail
from portal.accounts import sealing
from portal.client_address import client_address

logger = logging.getLogger(__name__)


class AccountAdapter(DefaultAccountAdapter):  # type: ignore[misc]
    """Sign-up by invitation only, guesses counted per person and network, mail that never breaks a page."""

    error_messages = {
        **DefaultAccountAdapter.error_messages,
        "email_password_mismatch": _("This e-mail address and password do not match."),
        "too_many_login_attempts": _("Too many tries. Wait five minutes and try again."),
    }

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        """Nobody signs up unasked."""
        return False

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

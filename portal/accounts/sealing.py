"""Small secrets of people (authenticator keys, recovery codes), encrypted before they reach the database."""

from __future__ import annotations

import base64
import hashlib
import hmac

from allauth.mfa.models import Authenticator
from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings
from django.db import transaction

_SEALED = ("secret", "seed")  # the fields of an authenticator's data that allauth asks us to seal


def seal(text: str) -> str:
    """Return `text` encrypted and authenticated."""
    return _box().encrypt(text.encode()).decode()


def unseal(sealed: str) -> str:
    """Return the text that `seal` was given.

    Raises: cryptography.fernet.InvalidToken for anything that these keys did not seal.
    """
    return _box().decrypt(sealed.encode()).decode()


def seal_all_again() -> tuple[int, list[str]]:
    """Encrypt everybody's secrets under the newest key; return how many, and whose could not be opened."""
    done, lost = 0, []
    for pk in list(Authenticator.objects.values_list("pk", flat=True)):
        with transaction.atomic():
            kept = Authenticator.objects.select_for_update(of=("self",)).select_related("user").filter(pk=pk).first()
            names = [name for name in _SEALED if kept is not None and name in kept.data]
            try:
                for name in names:
                    kept.data[name] = _box().rotate(kept.data[name].encode()).decode()
            except InvalidToken:
                lost.append(f"{kept.user.email} ({kept.type})")
                continue
            if names:
                kept.save(update_fields=["data"])
                done += 1
    return done, lost


def _box() -> MultiFernet:
    keys = [settings.SECRETS_KEY, *settings.OLD_SECRETS_KEYS]
    return MultiFernet([Fernet(_derive(key)) for key in keys])


def _derive(secret: str) -> bytes:
    """Return a key for this purpose only, so that it never equals the one of the teams' secrets."""
    return base64.urlsafe_b64encode(hmac.new(secret.encode(), b"portal.accounts.sealing", hashlib.sha256).digest())

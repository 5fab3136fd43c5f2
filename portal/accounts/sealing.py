"""Small secrets of people (authenticator keys, recovery codes), encrypted before they reach the database."""

from __future__ import annotations

import base64
import hashlib
import hmac

from cryptography.fernet import Fernet, MultiFernet
from django.conf import settings


def seal(text: str) -> str:
    """Return `text` encrypted and authenticated."""
    return _box().encrypt(text.encode()).decode()


def unseal(sealed: str) -> str:
    """Return the text that `seal` was given.

    Raises: cryptography.fernet.InvalidToken for anything that these keys did not seal.
    """
    return _box().decrypt(sealed.encode()).decode()


def _box() -> MultiFernet:
    keys = [str(settings.SECRET_KEY), *map(str, settings.SECRET_KEY_FALLBACKS)]
    return MultiFernet([Fernet(_derive(key)) for key in keys])


def _derive(secret: str) -> bytes:
    """Return a key for this purpose only, so that it never equals the one that signs cookies."""
    return base64.urlsafe_b64encode(hmac.new(secret.encode(), b"portal.accounts.sealing", hashlib.sha256).digest())

"""Signatures of Standard Webhooks 1.0.0, which the openai SDK checks with `client.webhooks.unwrap`."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from typing import Final

PREFIX: Final = "whsec_"
SECRET_BYTES: Final = 32


def new_secret() -> str:
    """Return a new signing secret: `whsec_` and base64 of 32 random bytes."""
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def headers_for(*, webhook_id: str, at_s: int, body: bytes, signing: Sequence[str]) -> dict[str, str]:
    """Return the three headers of a delivery, signed with each secret; receivers accept any one that they know."""
    signatures = " ".join(_signature(secret, webhook_id, at_s, body) for secret in signing)
    return {"webhook-id": webhook_id, "webhook-timestamp": str(at_s), "webhook-signature": signatures}


def _signature(secret: str, webhook_id: str, at_s: int, body: bytes) -> str:
    key = base64.b64decode(secret.removeprefix(PREFIX))
    signed = f"{webhook_id}.{at_s}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()

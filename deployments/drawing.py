"""Which version answers a request to a plain name: the live one, or for a share of them the canary.

A request that names its person (`user` or `safety_identifier`) is drawn by that name, so that a conversation stays with
one version, and with a larger share everybody stays who was with the canary before. Others are drawn one by one. What a
canary cannot answer is asked of the live version.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, TypeVar

from deployments.admission import NotAsRemembered
from deployments.known_targets import Canary, Target
from portal.errors import PortalError

PERSON: Final = ("user", "safety_identifier")
# Nothing that another version could do better: the caller is gone, or this process is full.
_NOT_ITS_FAULT: Final = frozenset({"client_closed_request", "slow_down"})
_draws = random.Random()  # noqa: S311 — who is drawn is no secret
Answer = TypeVar("Answer")


def answered(target: Target, sent: Any, ask: Callable[[Target], Answer]) -> Answer:
    """Return what `ask` returns for the version that is drawn for a request, `sent` as it came.

    If that is the canary and it fails, the live version is asked. Raises: what `ask` raises for the live version.
    """
    canary = target.canary
    if canary is None:
        return ask(target)
    live = replace(target, canary=None)
    if not is_drawn(canary, sent):
        return ask(live)
    try:
        return ask(canary.target)
    except NotAsRemembered:
        raise
    except PortalError as error:
        if not is_asked_again(canary.target, error):
            raise
        return ask(replace(live, is_instead=True))


def is_asked_again(target: Target, error: Exception) -> bool:
    """Whether the live version is asked after a target failed in this way, before its first text."""
    return target.is_canary and isinstance(error, PortalError) and error.code not in _NOT_ITS_FAULT


def is_drawn(canary: Canary, sent: Any) -> bool:
    """Whether a request goes to the canary."""
    named = next((sent[name] for name in PERSON if isinstance(sent.get(name), str) and sent[name]), None)
    if named is None:
        return _draws.random() * 100 < canary.share
    digest = hashlib.sha256(f"{canary.target.version_id}\0{named}".encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8]) * 100 < canary.share << 64

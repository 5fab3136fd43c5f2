"""API tokens that can never be good are refused before much is done for them: a flood of them costs others little.

What is refused here is refused by `portal.authentication` as well, in the same words: the answer is the one that a
view gave to the first of them. Tokens that exist (expired, revoked, of a wrong network or scope) are none of ours.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from django.db import Error
from django.http import HttpRequest, HttpResponse

from portal import tokens
from portal.access import policy_of
from portal.authentication import shown_token
from portal.lane import Lane

Handler = Callable[[HttpRequest], HttpResponse]
REMEMBERED_S = 60.0
MOST_REMEMBERED = 4096
_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})
# One connection: those who try keys wait for each other, and for nobody else.
_PROOF = Lane("SELECT * FROM portal_token_proof($1::text)", connections=1)


class Refused:
    """Which texts were found to be no token's, for a while. Kept are keyed hashes. Thread safe."""

    def __init__(self) -> None:
        self._until: OrderedDict[bytes, float] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, mark: bytes) -> None:
        """Remember a text by its mark; beyond the bound the oldest is forgotten."""
        with self._lock:
            self._until[mark] = time.monotonic() + REMEMBERED_S
            self._until.move_to_end(mark)
            if len(self._until) > MOST_REMEMBERED:
                self._until.popitem(last=False)

    def knows(self, mark: bytes) -> bool:
        """Whether a text was added within the last minute."""
        return self._until.get(mark, 0.0) > time.monotonic()

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._until.clear()


refused = Refused()


def is_bad(text: str) -> bool:
    """Return whether no token has this text: it has not the shape of one, an unknown key id, or a wrong secret.

    At most one question to the database, the same for unknown ids and wrong secrets, and none for a token that this
    process knows. Raises: django.db.Error.
    """
    parts = tokens.parts_of(text)
    if parts is None:
        return True
    mark = tokens.mark_of(text)
    if refused.knows(mark):
        return True
    key_id, secret = parts
    if tokens.is_remembered(key_id, secret):
        return False
    rows = _PROOF.fetch("a token names its team only after it was found", [key_id])
    # A secret is compared in any case: unknown ids cost the same hash as known ones.
    if tokens.proves(secret, *(rows[0] if rows else ("0" * 64, ""))) and rows:
        return False
    refused.add(mark)
    return True


class refuse_bad_tokens:  # noqa: N801 — a middleware like its siblings
    """Answer requests under /v1 that show a bad token as their view answered the first of them.

    It stands behind all that is asked of a request before its view, so the answer is the same in every case.
    """

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response
        self._answers: dict[tuple[str | None, Any], tuple[bytes, dict[str, str]]] = {}

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        match = request.resolver_match
        if getattr(request, "has_bad_token", False) and match is not None and _is_ours(request, match.func):
            self._answers.setdefault((request.method, match.func), (response.content, dict(response.items())))
        return response

    def process_view(self, request: HttpRequest, view: Any, args: Any, kwargs: Any) -> HttpResponse | None:
        answer = self._answers.get((request.method, view))
        if answer is None:
            return None
        text = shown_token(request.META)
        try:
            if not text or not is_bad(text):
                return None
        except Error:
            return None  # the view says that the database is away
        content, headers = answer
        return HttpResponse(content, status=401, headers=headers)


def _is_ours(request: HttpRequest, view: Any) -> bool:
    """Whether a view answers in one form, whatever the caller would like, and asks for a token first."""
    policy = policy_of(view)
    asks_first = policy is not None and policy.kind == "token"
    return asks_first and request.method in _METHODS and request.path_info.startswith("/v1/")

"""What makes something is made once: a request that comes again gets the answer of the first one.

A client says so with an `Idempotency-Key`, for a day; or it is OpenAI's SDK, which sends a request again after a
timeout and counts its tries in `x-stainless-retry-count`. Only answers of requests that make something are kept, never
what a model wrote.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Final

from django.db import connection
from django.utils import timezone
from django.utils.translation import gettext as _
from rest_framework.request import Request
from rest_framework.response import Response

from deployments.openai_api.models import KeptAnswer
from portal.errors import IllegalTransition, InvalidInput
from portal.models import ApiToken, Team
from portal.rls import all_teams

KEPT_FOR: Final = timedelta(hours=24)
RETRIED_WITHIN: Final = timedelta(minutes=10)
LONGEST_KEY: Final = 255
HEADER: Final = "Idempotency-Key"


def once(
    request: Request, *, team: Team, token: ApiToken, body: object, make: Callable[[], Mapping[str, Any]]
) -> Response:
    """Return the answer of `make`, or what an equal request got before. Call it in the transaction of the making.

    `body` is what has to be equal. Raises: IllegalTransition if the same key came with another body.
    """
    key = _key_of(request)
    asked = _hash(token.pk.hex, request.method or "", request.path, json.dumps(body, sort_keys=True, default=str))
    key_hash = _hash(token.pk.hex, key) if key else _hash(secrets.token_hex(16))
    # Whoever comes while the first one is at work waits here for it.
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 4713))", [key_hash if key else asked])
    kept = _kept(team, key_hash) if key else _retried(request, team, asked)
    if kept is not None:
        if kept.request_hash != asked:
            raise IllegalTransition(
                _("This Idempotency-Key was sent with another request. Use a new key for a new request."),
                code="idempotency_key_reused",
                param=HEADER,
            )
        return Response(kept.body, status=kept.status, headers={"Idempotent-Replayed": "true"})
    answer = dict(make())
    team.keptanswers.filter(key_hash=key_hash).delete()  # one whose day is over
    team.keptanswers.create(key_hash=key_hash, request_hash=asked, status=200, body=answer)
    return Response(answer)


def prune() -> int:
    """Forget answers whose day is over; return how many. Call it by the clock."""
    with all_teams("the clock forgets the answers of all teams"):
        return KeptAnswer.unscoped.filter(created_at__lt=timezone.now() - KEPT_FOR).delete()[0]


def _key_of(request: Request) -> str:
    key = request.headers.get(HEADER, "")
    if len(key) > LONGEST_KEY:
        raise InvalidInput(_("An Idempotency-Key has up to 255 characters."), param=HEADER)
    return key


def _kept(team: Team, key_hash: str) -> KeptAnswer | None:
    since = timezone.now() - KEPT_FOR
    found: KeptAnswer | None = team.keptanswers.filter(key_hash=key_hash, created_at__gt=since).first()
    return found


def _retried(request: Request, team: Team, asked: str) -> KeptAnswer | None:
    """Return what the try before this one got, if this is a retry of the SDK."""
    tries = request.headers.get("x-stainless-retry-count", "0")
    if not tries.isdecimal() or not int(tries[:4]):
        return None
    since = timezone.now() - RETRIED_WITHIN
    rows = team.keptanswers.filter(request_hash=asked, created_at__gt=since)
    found: KeptAnswer | None = rows.order_by("-created_at").first()
    return found


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).hexdigest()

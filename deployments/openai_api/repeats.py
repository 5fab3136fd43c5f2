"""What makes or costs something is done once: a request that comes again gets the answer of the first one.

A client says so with an `Idempotency-Key`, for a day; or it is OpenAI's SDK, which sends a request again after a
timeout and counts its tries in `x-stainless-retry-count`. What a model wrote is kept only where the client sent a key.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final, cast

from django.conf import settings
from django.db import Error, connection
from django.http import HttpResponse, HttpResponseBase
from django.utils import timezone
from django.utils.translation import gettext as _
from rest_framework.request import Request
from rest_framework.response import Response

from deployments.openai_api.models import KeptAnswer
from portal.errors import IllegalTransition, InvalidInput
from portal.models import ApiToken, Team
from portal.rls import all_teams, team_scope

KEPT_FOR: Final = timedelta(hours=24)
RETRIED_WITHIN: Final = timedelta(minutes=10)
LONGEST_KEY: Final = 255
HEADER: Final = "Idempotency-Key"
AT_WORK: Final = 0
"""The status of a kept answer that is still being written."""
_TEXT: Final = "answer"
_REPLAYED: Final = {"Idempotent-Replayed": "true"}


def once(
    request: Request, *, team: Team, token: ApiToken, body: object, make: Callable[[], Mapping[str, Any]]
) -> Response:
    """Return the answer of `make`, or what an equal request got before. Call it in the transaction of the making.

    `body` is what has to be equal. Raises: IllegalTransition if the same key came with another body.
    """
    key = _key_of(request)
    asked = _request_hash(request, token, body)
    key_hash = _hash(token.pk.hex, key) if key else _hash(secrets.token_hex(16))
    # Whoever comes while the first one is at work waits here for it.
    _lock(key_hash if key else asked)
    kept = _kept(team, key_hash) if key else _retried(request, team, asked)
    if kept is not None:
        _require_same(kept, asked)
        return Response(kept.body, status=kept.status, headers=_REPLAYED)
    answer = dict(make())
    team.keptanswers.filter(key_hash=key_hash).delete()  # one whose day is over
    team.keptanswers.create(key_hash=key_hash, request_hash=asked, status=200, body=answer)
    return Response(answer)


def has_key(request: Request) -> bool:
    """Return whether a request says by a key which one it is."""
    return bool(request.headers.get(HEADER))


def answered_once(
    request: Request, *, team: Team, token: ApiToken, answer: Callable[[], HttpResponseBase]
) -> HttpResponseBase:
    """Return what `answer` returns, or what an equal request with the same key got before. Call it in no transaction.

    Models take seconds: whoever comes while the first request is at work is told to come back. What fails is not kept.
    Raises: IllegalTransition if the key came with another body, or its request is being answered; as `answer`.
    """
    key_hash = _hash(token.pk.hex, _key_of(request))
    claim = _claim(team, key_hash, _request_hash(request, token, request.data))
    if claim.status != AT_WORK:
        return HttpResponse(claim.body[_TEXT], content_type="application/json", headers=_REPLAYED)
    try:
        response = answer()
    except BaseException:
        with suppress(Error), team_scope(team.pk):
            team.keptanswers.filter(pk=claim.pk).delete()
        raise
    told = response.data if isinstance(response, Response) else json.loads(cast(HttpResponse, response).content)
    # As text of ASCII alone: the database takes no NUL, which a model may write.
    with suppress(Error), team_scope(team.pk):
        team.keptanswers.filter(pk=claim.pk).update(status=200, body={_TEXT: json.dumps(told)})
    return response


def _claim(team: Team, key_hash: str, asked: str) -> KeptAnswer:
    """Return the row of a request: AT_WORK if it is to be answered now, else with the answer that it got before."""
    with team_scope(team.pk):
        _lock(key_hash)
        kept = _kept(team, key_hash)
        if kept is not None:
            _require_same(kept, asked)
            if kept.status != AT_WORK:
                return kept
            if kept.created_at > timezone.now() - timedelta(seconds=2 * settings.ENGINE_TIMEOUT_SECONDS):
                raise IllegalTransition(
                    _("The first request with this Idempotency-Key is still being answered. Ask again in a moment."),
                    code="idempotency_key_in_use",
                    param=HEADER,
                    headers={"x-should-retry": "true", "Retry-After": "2"},
                )
        team.keptanswers.filter(key_hash=key_hash).delete()  # one whose day is over, or whose server has died
        made = KeptAnswer(team=team, key_hash=key_hash, request_hash=asked, status=AT_WORK, body={})
        made.save(force_insert=True)
        return made


def _lock(what: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 4713))", [what])


def _require_same(kept: KeptAnswer, asked: str) -> None:
    if kept.request_hash != asked:
        raise IllegalTransition(
            _("This Idempotency-Key was sent with another request. Use a new key for a new request."),
            code="idempotency_key_reused",
            param=HEADER,
        )


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


def _request_hash(request: Request, token: ApiToken, body: object) -> str:
    return _hash(token.pk.hex, request.method or "", request.path, json.dumps(body, sort_keys=True, default=str))


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).hexdigest()

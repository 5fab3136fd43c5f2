"""Counts of all requests that ever came, for monitoring: kept up by the clock, so that reading them costs nothing.

Records get their ids in about the order in which they come, but one may commit after a later one. So each count goes up
to where the newest record was at the count before, a minute ago: nothing is counted twice, nothing is left out. Of what
the live version replaced, tokens count, but the request counts once.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Final

from django.db import connection
from django.db.models import Max
from django.utils import timezone

from deployments.models import InferenceRecord, RequestTotals
from portal.prometheus import Family, counter, histogram
from portal.rls import all_teams

BOUNDS_MS: Final = (50, 100, 150, 250, 500, 1_000, 2_000, 3_000, 5_000, 10_000, 30_000, 60_000)
LEAST_PAUSE: Final = timedelta(seconds=20)
_SUMS = """
    SELECT status / 100, width_bucket(duration_ms, %(bounds)s::int[]),
           coalesce(width_bucket(first_token_ms, %(bounds)s::int[]), -1),
           count(*) FILTER (WHERE asked), coalesce(sum(duration_ms) FILTER (WHERE asked), 0),
           coalesce(sum(first_token_ms) FILTER (WHERE asked), 0), sum(prompt_tokens), sum(completion_tokens)
    FROM (
        SELECT *, attempt <> 'replaced' AS asked FROM deployments_inferencerecord
        WHERE id > %(counted)s AND id <= %(seen)s
    ) AS record GROUP BY 1, 2, 3
"""


def count() -> int:
    """Add what has come since the last count; return how many requests that were. By the clock, about once a minute."""
    now = timezone.now()
    with all_teams("monitoring counts the requests of all teams together"):
        newest = InferenceRecord.unscoped.aggregate(newest=Max("pk"))["newest"] or 0
        # The first count begins with the present: a table of millions is not read for the past.
        RequestTotals.objects.get_or_create(
            pk=1, defaults={"counted": newest, "seen": newest, "durations": _zeros(), "first_tokens": _zeros()}
        )
        totals = RequestTotals.objects.select_for_update().get(pk=1)
        if now - totals.seen_at < LEAST_PAUSE:
            return 0
        before = totals.requests
        if totals.seen > totals.counted:
            _add(totals)
        totals.counted, totals.seen, totals.seen_at = totals.seen, newest, now
        totals.save()
    return totals.requests - before


def _add(totals: RequestTotals) -> None:
    # width_bucket takes lower ends that belong to the bucket above; a bound belongs to the one below.
    asked: dict[str, Any] = {
        "bounds": [bound + 1 for bound in BOUNDS_MS],
        "counted": totals.counted,
        "seen": totals.seen,
    }
    with connection.cursor() as cursor:
        cursor.execute(_SUMS, asked)
        rows: list[Any] = cursor.fetchall()
    for kind, duration, first, requests, duration_ms, first_ms, prompt_tokens, completion_tokens in rows:
        statuses = f"{kind}xx"
        totals.statuses[statuses] = totals.statuses.get(statuses, 0) + requests
        totals.durations[duration] += requests
        if first >= 0:
            totals.first_tokens[first] += requests
        totals.duration_ms += duration_ms
        totals.first_token_ms += first_ms
        totals.prompt_tokens += prompt_tokens
        totals.completion_tokens += completion_tokens


def _zeros() -> list[int]:
    return [0] * (len(BOUNDS_MS) + 1)


def request_metrics() -> Iterable[Family]:
    """Yield the figures, of about a minute ago."""
    totals = RequestTotals.objects.filter(pk=1).first() or RequestTotals(durations=_zeros(), first_tokens=_zeros())
    statuses = {(kind,): totals.statuses.get(kind, 0) for kind in ("2xx", "4xx", "5xx", *totals.statuses)}
    yield counter("tuneport_requests_total", "Requests to models by HTTP status.", statuses, ["status"])
    tokens = {("prompt",): totals.prompt_tokens, ("completion",): totals.completion_tokens}
    yield counter("tuneport_tokens_total", "Tokens read and written by models.", tokens, ["kind"])
    bounds = [bound / 1000 for bound in BOUNDS_MS]
    yield histogram(
        "tuneport_request_seconds", "Time of requests to models.", bounds, totals.durations, totals.duration_ms / 1000
    )
    yield histogram(
        "tuneport_first_token_seconds", "Time until a stream's first token.", bounds, totals.first_tokens,
        totals.first_token_ms / 1000,
    )  # fmt: skip

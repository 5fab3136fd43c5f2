"""The usage ledger: one place that adds up requests, tokens, GPU time and storage by team and day."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from uuid import UUID

from portal.models.usage import NOBODY
from portal.rls import fetch_in_all_teams


@dataclass(frozen=True)
class RequestFact:
    """What one answered or failed request adds to the ledger."""

    team_id: UUID
    day: date
    token_id: UUID | None
    model: str
    is_error: bool
    prompt_tokens: int
    completion_tokens: int


# Rows are written in one order, so that two processes never wait for each other.
_ADD = """
    INSERT INTO portal_usageday AS known
        (team_id, day, token_id, model, requests, errors, prompt_tokens, completion_tokens, gpu_seconds, storage_bytes)
    SELECT added.*, 0, 0 FROM unnest(
        %s::uuid[], %s::date[], %s::uuid[], %s::text[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[]
    ) AS added (team_id, day, token_id, model, requests, errors, prompt_tokens, completion_tokens)
    JOIN portal_team team ON team.id = added.team_id
    ORDER BY added.team_id, added.day, added.token_id, added.model
    ON CONFLICT (team_id, day, token_id, model) DO UPDATE SET
        requests = known.requests + excluded.requests,
        errors = known.errors + excluded.errors,
        prompt_tokens = known.prompt_tokens + excluded.prompt_tokens,
        completion_tokens = known.completion_tokens + excluded.completion_tokens
"""


def add_requests(facts: Sequence[RequestFact]) -> None:
    """Add requests of any teams to their days, in one statement; belongs into the transaction of their records."""
    sums: dict[tuple[UUID, date, UUID, str], Counter[str]] = {}
    for fact in facts:
        row = sums.setdefault((fact.team_id, fact.day, fact.token_id or NOBODY, fact.model), Counter())
        row["requests"] += 1
        row["errors"] += fact.is_error
        row["prompt_tokens"] += fact.prompt_tokens
        row["completion_tokens"] += fact.completion_tokens
    if not sums:
        return
    keys = [list(column) for column in zip(*sums, strict=True)]
    names = ("requests", "errors", "prompt_tokens", "completion_tokens")
    fetch_in_all_teams(
        "requests of all teams", _ADD, [*keys, *([row[name] for row in sums.values()] for name in names)]
    )

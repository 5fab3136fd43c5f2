"""The usage ledger: one place that adds up requests, tokens, GPU time and storage by team and day."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from uuid import UUID

from django.db.models import Sum
from django.utils import timezone

from portal import quotas
from portal.models import Quota, Team
from portal.models.usage import NOBODY
from portal.quotas import Standing
from portal.rls import fetch_in_all_teams, fetch_in_team, team_scope


@dataclass(frozen=True)
class RequestFact:
    """What one answered or failed request adds to the ledger; an attempt that another one replaced is no request."""

    team_id: UUID
    day: date
    token_id: UUID | None
    model: str
    is_error: bool
    prompt_tokens: int
    completion_tokens: int
    is_replaced: bool = False


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
        row["requests"] += not fact.is_replaced
        row["errors"] += fact.is_error and not fact.is_replaced
        row["prompt_tokens"] += fact.prompt_tokens
        row["completion_tokens"] += fact.completion_tokens
    if not sums:
        return
    keys = [list(column) for column in zip(*sums, strict=True)]
    names = ("requests", "errors", "prompt_tokens", "completion_tokens")
    fetch_in_all_teams(
        "requests of all teams", _ADD, [*keys, *([row[name] for row in sums.values()] for name in names)]
    )


# --- how much there is now ---------------------------------------------------------------------------------------


def storage_bytes(team: Team) -> int:
    """Return how much the team stores: files, rows, adapters and exports. Call it in the team's row scope."""
    # Through the team's own related managers: the rooms above are not imported here.
    # The training file of a job under /v1 lies once on the disk, under two names.
    own = team.sourcefiles.exclude(counted_as__in=team.apifiles.values("pk"))
    uploaded = own.filter(within=None).order_by().aggregate(sum=Sum("size_bytes"))["sum"]
    unpacked = team.sourcefiles.order_by().aggregate(sum=Sum("unpacked_bytes"))["sum"]
    # What is deleted but can still be restored takes its place, too.
    parts = (
        team.datasetversions(manager="with_deleted"), team.adapters, team.resumableuploads, team.apifiles,
        team.modelexports,
    )  # fmt: skip
    kept = (part.order_by().aggregate(sum=Sum("size_bytes"))["sum"] for part in parts)
    return sum(size or 0 for size in (uploaded, unpacked, *kept))


def standings(team: Team) -> list[Standing]:
    """Return how the team stands with each of its limits. Call it in the team's row scope."""
    counted = quotas.window_standings(
        team, [Quota.GPU_SECONDS, Quota.TOKENS_PER_MONTH, Quota.REQUESTS_PER_MINUTE, Quota.TOKENS_PER_MINUTE]
    )
    gpu = counted[Quota.GPU_SECONDS]
    counted[Quota.GPU_SECONDS] = replace(gpu, used=gpu_seconds(team))
    present = {
        Quota.CONCURRENT_RUNS: team.runs.filter(status__in=("assigned", "running")).count(),
        Quota.QUEUED_RUNS: team.runs.filter(status="queued").count(),
        Quota.STORAGE_BYTES: storage_bytes(team),
        Quota.DEPLOYMENTS: team.deployments.count(),
    }
    for kind, used in present.items():
        limit = team.max_concurrent_runs if kind == Quota.CONCURRENT_RUNS else quotas.limit_of(team, kind)
        counted[kind] = Standing(kind, limit, used)
    return [counted[kind] for kind in Quota]


def gpu_seconds(team: Team) -> float:
    """Return the team's GPU time of this month (UTC)."""
    return float(fetch_in_team(team.pk, "SELECT portal_gpu_seconds(%s, now())", [team.pk])[0][0])


def measure_storage() -> None:
    """Write down how much each team stores today; the last measurement of a day stays."""
    for team in Team.objects.all():
        with team_scope(team.pk):
            team.usagedays.update_or_create(
                day=timezone.now().date(), token_id=NOBODY, model="", defaults={"storage_bytes": storage_bytes(team)}
            )

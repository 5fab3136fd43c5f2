"""Teams are told when they have used 80 and 100% of a limit: on their pages, and by one e-mail a month to admins."""

from __future__ import annotations

from datetime import date
from functools import partial
from typing import Final

from django.db import transaction
from django.db.models import F

from portal import audit, mail, quotas, usage
from portal.actors import Actor
from portal.models import Quota, QuotaAlert, Role, Team
from portal.quotas import Standing
from portal.rls import team_scope
from portal.usage_report import Month

PERCENTS: Final = (80, 100)
# What fills slowly. Minutes come and go too fast for letters, and a full queue says so itself.
WATCHED: Final = (Quota.GPU_SECONDS, Quota.STORAGE_BYTES, Quota.TOKENS_PER_MONTH)
_WATCHER = Actor.system("quota watch")


def check_all() -> int:
    """Look at every team; return how many limits were reached that had not been reached this month."""
    return sum(check(team) for team in Team.objects.filter(archived_at=None))


def check(team: Team) -> int:
    """Note which limits the team has reached, and tell its admins of those that are new; return how many are."""
    month = Month.present().first
    with team_scope(team.pk):
        standings = {one.kind: one for one in usage.standings(team) if one.kind in WATCHED}
        return sum(_check_one(team, standing, month) for standing in standings.values())


def current(team: Team) -> list[QuotaAlert]:
    """Return what the team's pages warn of, one alert a limit. Call it in the team's row scope."""
    month = Month.present().first
    found = team.quotaalerts.filter(month=month, is_current=True).order_by("kind", F("percent").desc())
    return list({alert.kind: alert for alert in reversed(found)}.values())


def _check_one(team: Team, standing: Standing, month: date) -> bool:
    share = standing.share
    known = team.quotaalerts.filter(kind=standing.kind, month=month)
    reached = [percent for percent in PERCENTS if share is not None and share * 100 >= percent]
    known.exclude(percent__in=reached).filter(is_current=True).update(is_current=False)
    known.filter(percent__in=reached, is_current=False).update(is_current=True)
    new = [percent for percent in reached if _is_new(team, standing.kind, month, percent)]
    if new:
        _tell(team, standing, max(new))
    return bool(new)


def _is_new(team: Team, kind: Quota, month: date, percent: int) -> bool:
    """Whether this call is the one that wrote the row: of several watchers exactly one hears yes."""
    alert = QuotaAlert(team=team, kind=kind, month=month, percent=percent)
    team.quotaalerts.bulk_create([alert], ignore_conflicts=True)
    return bool(team.quotaalerts.filter(pk=alert.pk).exists())


def _tell(team: Team, standing: Standing, percent: int) -> None:
    audit.record(
        team,
        _WATCHER,
        "limit.reached",
        team,
        kind=standing.kind.value,
        percent=percent,
        used=int(standing.used),
        limit=standing.limit,
    )
    admins = team.memberships.filter(role=Role.ADMIN, user__is_active=True).values_list("user__email", flat=True)
    context = {
        "team": team.name,
        "percent": percent,
        "what": standing.kind.label,
        "used": quotas.written(standing.kind, standing.used),
        "limit": quotas.written(standing.kind, standing.limit),
        "resets_at": standing.resets_at,
    }
    for address in admins:
        transaction.on_commit(partial(mail.send, to=address, template="quota", context=context))

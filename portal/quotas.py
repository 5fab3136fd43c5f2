"""Quotas that hold when many ask at once.

What is counted in minutes and months is reserved before the work and settled after it, each in one statement: the
database adds the amount only where the sum stays within the limit. A reservation that nobody settles, because its
process died, is given back when its time is over. What is a number of rows (runs that wait, deployments, stored bytes)
needs no counter: `require_room` locks the team, counts the rows, and the new row is the reservation.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from portal.display.numbers import filesize, thousands
from portal.errors import PortalError, QuotaExceeded, RateLimited
from portal.models import Quota, QuotaWindow, Team
from portal.rls import all_teams, fetch_in_all_teams, fetch_in_team

# Longer than any answer takes; a longer stream is counted in full when it ends.
KEEP = timedelta(minutes=15)
_KEEP_MINUTES_FOR = timedelta(days=1)
_REASON = "reservations of all teams"


def _moment() -> datetime | None:
    """Return what time it is for windows; None: the database knows. Tests put another clock here."""
    return None


@dataclass(frozen=True)
class Standing:
    """How a team stands with one limit; `limit` None: there is none. `resets_at` None: it is no question of time."""

    kind: Quota
    limit: int | None
    used: float
    resets_at: datetime | None = None
    resets_in_s: float = 0.0

    @property
    def remaining(self) -> int | None:
        """How much is left, never less than 0."""
        return None if self.limit is None else max(0, int(self.limit - self.used))

    @property
    def share(self) -> float | None:
        """How much of the limit is used; None without a limit."""
        if self.limit is None:
            return None
        return self.used / self.limit if self.limit else 1.0


@dataclass(frozen=True)
class Reservation:
    """Amounts that are set aside for one request, and how the team stands with each limit since."""

    id: uuid.UUID
    team_id: uuid.UUID
    amounts: Mapping[Quota, int]
    starts: Mapping[Quota, datetime]
    standings: Mapping[Quota, Standing]


@dataclass(frozen=True)
class Settlement:
    """What a reserved request really took. What is not named was taken as reserved."""

    reservation: Reservation
    actual: Mapping[Quota, int] = field(default_factory=dict)


class Refused(Exception):
    """One of the limits has no room; carries all standings, and which one it was."""

    def __init__(self, kind: Quota, asked: int, standings: Mapping[Quota, Standing]) -> None:
        super().__init__(kind.value)
        self.kind, self.asked, self.standings = kind, asked, standings


# --- what is counted in minutes and months -----------------------------------------------------------------------

_RESERVE = "SELECT * FROM portal_reserve(%s, %s, %s::text[], %s::bigint[], %s::timestamptz, %s)"


def ask(values: list[Any]) -> list[Any]:
    """Run `portal_reserve` with its values, in the scope of the team, and return its rows."""
    # One row for each team is asked for by all: it must not wait for the disk while it is locked.
    return fetch_in_team(values[0], _RESERVE, values, lasting=False)


def reserve(
    team_id: uuid.UUID, amounts: Mapping[Quota, int], *, hold: bool = True, ask: Callable[[list[Any]], list[Any]] = ask
) -> Reservation:
    """Take all amounts from the team's limits, or none, in one statement.

    With `hold` they are given back after KEEP unless `settle` says what was really used. `ask` runs `portal_reserve`
    with the values that it is given, and returns its rows. Raises: Refused; what `ask` raises.
    """
    kinds = sorted(amounts)
    # Nobody's secret, so it need not cost a call of the operating system.
    reservation_id = uuid.UUID(int=random.getrandbits(128), version=4)
    values = [team_id, reservation_id if hold else None, [kind.value for kind in kinds]]
    rows = ask([*values, [amounts[kind] for kind in kinds], _moment(), KEEP])
    standings = {}
    refused: Quota | None = None
    for name, starts_at, most, used, taken_at, is_refused in rows:
        standings[Quota(name)] = _window_standing(Quota(name), most, used, starts_at, taken_at)
        refused = Quota(name) if is_refused else refused
    if refused is not None:
        raise Refused(refused, amounts[refused], standings)
    starts = {Quota(row[0]): row[1] for row in rows}
    return Reservation(reservation_id, team_id, dict(amounts), starts, standings)


# Two that settle, or one that settles and one that reserves, lock the windows in the same order.
_SETTLE = """
    WITH asked AS (
        SELECT * FROM unnest(%s::uuid[], %s::uuid[], %s::text[], %s::timestamptz[], %s::bigint[], %s::bigint[])
            AS asked (reservation_id, team_id, kind, starts_at, reserved, actual)
    ), held AS (
        DELETE FROM portal_quotareservation WHERE id = ANY(%s::uuid[]) RETURNING id
    ), change AS (
        SELECT team_id, kind, starts_at, sum(actual - CASE WHEN held.id IS NULL THEN 0 ELSE reserved END) AS amount
        FROM asked LEFT JOIN held ON held.id = asked.reservation_id
        GROUP BY team_id, kind, starts_at
    ), locked AS (
        SELECT counted.id, change.amount
        FROM portal_quotawindow counted JOIN change USING (team_id, kind, starts_at)
        ORDER BY counted.team_id, counted.kind, counted.starts_at
        FOR UPDATE OF counted
    )
    UPDATE portal_quotawindow counted SET used = greatest(0, counted.used + locked.amount)
    FROM locked WHERE counted.id = locked.id
"""


def settle(settlements: Sequence[Settlement]) -> None:
    """Replace what was set aside by what was used, for requests of any teams in one statement.

    A reservation that was given back meanwhile is charged in full. Settle each once.
    """
    if not settlements:
        return
    columns: list[list[Any]] = [[], [], [], [], [], []]
    for one in settlements:
        held = one.reservation
        for kind, reserved in held.amounts.items():
            actual = one.actual.get(kind, reserved)
            row = (held.id, held.team_id, kind.value, held.starts[kind], reserved, actual)
            for column, value in zip(columns, row, strict=True):
                column.append(value)
    fetch_in_all_teams(_REASON, _SETTLE, [*columns, columns[0]], lasting=False)


def release(reservation: Reservation) -> None:
    """Give everything back: the work did not happen."""
    settle([Settlement(reservation, dict.fromkeys(reservation.amounts, 0))])


_SWEEP = """
    WITH gone AS (
        DELETE FROM portal_quotareservation WHERE expires_at < now() RETURNING team_id, kinds, starts, amounts
    ), change AS (
        SELECT team_id, one.kind, one.starts_at, sum(one.amount) AS amount
        FROM gone, unnest(gone.kinds, gone.starts, gone.amounts) AS one (kind, starts_at, amount)
        GROUP BY team_id, one.kind, one.starts_at
    ), locked AS (
        SELECT counted.id, change.amount
        FROM portal_quotawindow counted JOIN change USING (team_id, kind, starts_at)
        ORDER BY counted.team_id, counted.kind, counted.starts_at
        FOR UPDATE OF counted
    ), given_back AS (
        UPDATE portal_quotawindow counted SET used = greatest(0, counted.used - locked.amount)
        FROM locked WHERE counted.id = locked.id
    )
    SELECT count(*) FROM gone
"""


def sweep() -> int:
    """Give back what processes that died had set aside, and forget minutes that are over; return how many."""
    rows = fetch_in_all_teams(_REASON, _SWEEP, [])
    with all_teams(_REASON):
        minutes = QuotaWindow.unscoped.filter(kind__in=[Quota.REQUESTS_PER_MINUTE, Quota.TOKENS_PER_MINUTE])
        minutes.filter(starts_at__lt=timezone.now() - _KEEP_MINUTES_FOR).delete()
    return int(rows[0][0])


# --- what is a number of rows ------------------------------------------------------------------------------------


@transaction.atomic
def require_room(team: Team, kind: Quota, count: Callable[[], int], *, adding: int = 1, lock: bool = True) -> None:
    """Make sure that `adding` more fit, until the transaction ends: the team is locked, then `count` is asked.

    Without `lock` it is a first look, which keeps nobody waiting and promises nothing. Raises: QuotaExceeded.
    """
    if lock:
        Team.objects.select_for_update(no_key=True).get(pk=team.pk)
    limit = limit_of(team, kind)
    if limit is None:
        return
    used = count()
    if used + adding > limit:
        raise exceeded(Standing(kind, limit, used), adding)


def limit_of(team: Team, kind: Quota) -> int | None:
    """Return the team's limit: its own or the platform's; None if there is none."""
    rows = fetch_in_team(team.pk, "SELECT portal_limit(%s, %s)", [team.pk, kind.value])
    limit: int | None = rows[0][0]
    return limit


def window_standings(team: Team, kinds: Sequence[Quota]) -> dict[Quota, Standing]:
    """Return how the team stands with limits of the present minute or month."""
    statement = """
        SELECT wanted.kind, portal_window(wanted.kind, moment), portal_limit(%s, wanted.kind), coalesce(used, 0), moment
        FROM (SELECT coalesce(%s::timestamptz, now()) AS moment) AS clock, unnest(%s::text[]) AS wanted (kind)
        LEFT JOIN LATERAL (
            SELECT used FROM portal_quotawindow counted
            WHERE counted.team_id = %s AND counted.kind = wanted.kind
                AND counted.starts_at = portal_window(wanted.kind, moment)
        ) AS counted ON true
    """
    rows = fetch_in_team(team.pk, statement, [team.pk, _moment(), [kind.value for kind in kinds], team.pk])
    return {
        Quota(name): _window_standing(Quota(name), most, used, starts_at, now)
        for name, starts_at, most, used, now in rows
    }


def _window_standing(kind: Quota, most: int | None, used: float, starts_at: datetime, now: datetime) -> Standing:
    end = _end_of(kind, starts_at)
    return Standing(kind, most, used, end, max(0.0, (end - now).total_seconds()))


def _end_of(kind: Quota, starts_at: datetime) -> datetime:
    if kind in (Quota.REQUESTS_PER_MINUTE, Quota.TOKENS_PER_MINUTE):
        return starts_at + timedelta(minutes=1)
    start = starts_at.astimezone(UTC)
    return (start.replace(day=1) + timedelta(days=32)).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


# --- what people are told ----------------------------------------------------------------------------------------


def written(kind: Quota, amount: float | None) -> str:
    """Return an amount as people read it: 12.5 h, 3.4 GB, 1,200."""
    if amount is None:
        return _("no limit")
    if kind == Quota.GPU_SECONDS:
        hours = amount / 3600
        return _("%(hours)s h") % {
            "hours": thousands(hours) if hours >= 100 else f"{hours:.2f}".rstrip("0").rstrip(".")
        }
    return filesize(amount) if kind == Quota.STORAGE_BYTES else thousands(amount)


def refusal(refused: Refused) -> PortalError:
    """Return the error for a limit of a minute or month: which one, how much is used, when it resets."""
    return exceeded(refused.standings[refused.kind], refused.asked)


def exceeded(standing: Standing, asked: int) -> PortalError:
    """Return the error that says which limit has no room, how much of it is used and what to do."""
    facts = {
        "limit": written(standing.kind, standing.limit),
        "used": written(standing.kind, standing.used),
        "asked": written(standing.kind, asked),
    }
    if standing.kind in (Quota.REQUESTS_PER_MINUTE, Quota.TOKENS_PER_MINUTE):
        return _too_fast(standing, asked, facts)
    message = _SENTENCES[standing.kind]() % facts
    headers = {"x-should-retry": "false"}
    if standing.resets_at is not None:
        facts["moment"] = f"{standing.resets_at.astimezone(UTC):%Y-%m-%d %H:%M}"
        message += " " + _("It begins anew on %(moment)s UTC; a platform admin can raise it.") % facts
        headers["Retry-After"] = str(int(standing.resets_in_s) + 1)
    return QuotaExceeded(message, headers=headers)


def _too_fast(standing: Standing, asked: int, facts: Mapping[str, str]) -> PortalError:
    wait_s = int(standing.resets_in_s) + 1
    can_never_fit = standing.limit is not None and asked > standing.limit
    if can_never_fit and standing.kind == Quota.REQUESTS_PER_MINUTE:
        message = _(
            "The team's limit is %(limit)s requests a minute, so it can ask nothing. A platform admin can raise it."
        )
        return RateLimited(message % facts, headers={"x-should-retry": "false"})
    if can_never_fit:
        message = _(
            "This request may take %(asked)s tokens, but the team's limit is %(limit)s tokens a minute."
            " Ask for fewer with 'max_tokens', or send a shorter prompt."
        )
        return RateLimited(message % facts, headers={"x-should-retry": "false"})
    if standing.kind == Quota.REQUESTS_PER_MINUTE:
        message = _("The team's limit of %(limit)s requests a minute is reached (%(used)s used).")
    else:
        message = _(
            "The team's limit of %(limit)s tokens a minute has no room for this request"
            " (%(used)s used, up to %(asked)s needed)."
        )
    message = message % facts + " " + _("Try again in %(wait)d s.") % {"wait": wait_s}
    return RateLimited(message, headers={"Retry-After": str(wait_s)})


_SENTENCES: Mapping[Quota, Callable[[], str]] = {
    Quota.TOKENS_PER_MONTH: lambda: _(
        "The team's limit of %(limit)s tokens a month has no room for this request"
        " (%(used)s used, up to %(asked)s needed)."
    ),
    Quota.GPU_SECONDS: lambda: _("The team has used its GPU time of this month: %(used)s of %(limit)s."),
    Quota.QUEUED_RUNS: lambda: _(
        "%(used)s runs of the team wait already, and its limit is %(limit)s. Cancel one, or wait until one has started."
    ),
    Quota.STORAGE_BYTES: lambda: _(
        "The team stores %(used)s of at most %(limit)s, so %(asked)s more do not fit."
        " Delete datasets that are no longer needed for good, or ask a platform admin for more."
    ),
    Quota.DEPLOYMENTS: lambda: _(
        "The team has %(used)s deployments, and its limit is %(limit)s. Delete one that is no longer needed."
    ),
    Quota.CONCURRENT_RUNS: lambda: _("%(used)s runs of the team are at work already; its limit is %(limit)s."),
}

"""Quotas: exactly what is allowed passes, whoever asks at once; what was not used comes back."""

from __future__ import annotations

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.utils import timezone

from portal import quotas
from portal.errors import QuotaExceeded, RateLimited
from portal.models import PlatformLimit, Quota, QuotaReservation, QuotaWindow
from portal.quotas import Refused, Settlement
from portal.rls import all_teams, team_scope
from tests.processes import answers, processes, release

R, M, T = Quota.REQUESTS_PER_MINUTE, Quota.TOKENS_PER_MINUTE, Quota.TOKENS_PER_MONTH
NOON = datetime(2027, 1, 31, 12, 0, 20, tzinfo=UTC)


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """A clock that stands still, so that no test crosses the border of a minute; returns a function that sets it."""
    now = [NOON]
    monkeypatch.setattr(quotas, "_moment", lambda: now[0])
    return lambda moment: now.__setitem__(0, moment)


def limit(team, **values: int | None) -> None:
    with team_scope(team.pk):
        for kind, value in values.items():
            team.teamlimits.update_or_create(kind=Quota[kind], defaults={"value": value})


def used(team, kind: Quota) -> int:
    with team_scope(team.pk):
        return sum(team.quotawindows.filter(kind=kind).values_list("used", flat=True))


def test_amounts_are_added_up_to_the_limit_and_not_beyond(team):
    limit(team, REQUESTS_PER_MINUTE=2)
    first = quotas.reserve(team.pk, {R: 1})
    assert (first.standings[R].limit, first.standings[R].used, first.standings[R].remaining) == (2, 1, 1)
    assert first.standings[R].resets_in_s == 40
    quotas.reserve(team.pk, {R: 1})
    with pytest.raises(Refused) as refused:
        quotas.reserve(team.pk, {R: 1})
    assert refused.value.standings[R].used == 2
    error = quotas.refusal(refused.value)
    assert isinstance(error, RateLimited)
    assert (error.headers["Retry-After"], "2 requests a minute" in error.message) == ("41", True)


def test_all_or_nothing(team):
    limit(team, REQUESTS_PER_MINUTE=10, TOKENS_PER_MINUTE=100, TOKENS_PER_MONTH=50)
    with pytest.raises(Refused) as refused:
        quotas.reserve(team.pk, {R: 1, M: 60, T: 60})
    assert refused.value.kind == T
    assert (used(team, R), used(team, M), used(team, T)) == (0, 0, 0)
    with all_teams("test"):
        assert not QuotaReservation.unscoped.exists()
    error = quotas.refusal(refused.value)
    assert isinstance(error, QuotaExceeded)
    assert error.headers["x-should-retry"] == "false"
    assert "2027-02-01 00:00 UTC" in error.message


def test_what_can_never_fit_says_so(team):
    limit(team, TOKENS_PER_MINUTE=100)
    with pytest.raises(Refused) as refused:
        quotas.reserve(team.pk, {M: 101})
    error = quotas.refusal(refused.value)
    assert "max_tokens" in error.message
    assert error.headers == {"x-should-retry": "false"}


def test_a_limit_of_no_requests_says_so(team):
    limit(team, REQUESTS_PER_MINUTE=0)
    with pytest.raises(Refused) as refused:
        quotas.reserve(team.pk, {R: 1, M: 0})
    error = quotas.refusal(refused.value)
    assert "0 requests a minute" in error.message
    assert "token" not in error.message
    assert error.headers == {"x-should-retry": "false"}


def test_nothing_fits_also_where_more_is_used_than_the_limit_allows(team):
    limit(team, REQUESTS_PER_MINUTE=9, TOKENS_PER_MINUTE=100)
    quotas.reserve(team.pk, {R: 1, M: 90})
    limit(team, TOKENS_PER_MINUTE=50)
    held = quotas.reserve(team.pk, {R: 1, M: 0})
    assert (held.standings[M].remaining, used(team, R), used(team, M)) == (0, 2, 90)
    with pytest.raises(Refused):
        quotas.reserve(team.pk, {R: 1, M: 1})


def test_without_a_limit_everything_passes_and_is_counted(team):
    limit(team, TOKENS_PER_MONTH=None)
    held = quotas.reserve(team.pk, {T: 10**15})
    assert (held.standings[T].limit, held.standings[T].remaining, used(team, T)) == (None, None, 10**15)


def test_settling_takes_the_true_amounts_once(team):
    held = quotas.reserve(team.pk, {R: 1, M: 500, T: 500})
    quotas.settle([Settlement(held, {M: 120, T: 120})])
    assert (used(team, R), used(team, M), used(team, T)) == (1, 120, 120)
    other = quotas.reserve(team.pk, {R: 1, M: 500, T: 500})
    quotas.release(other)
    assert (used(team, R), used(team, M), used(team, T)) == (1, 120, 120)
    with all_teams("test"):
        assert not QuotaReservation.unscoped.exists()


def test_what_a_dead_process_had_set_aside_comes_back(team):
    quotas.reserve(team.pk, {R: 1, T: 500})
    assert quotas.sweep() == 0
    with all_teams("test"):
        QuotaReservation.unscoped.update(expires_at=timezone.now() - timedelta(seconds=1))
    assert quotas.sweep() == 1
    assert quotas.sweep() == 0
    assert (used(team, R), used(team, T)) == (0, 0)


def test_a_request_that_outlives_its_reservation_is_charged_in_full(team):
    held = quotas.reserve(team.pk, {T: 500})
    with all_teams("test"):
        QuotaReservation.unscoped.update(expires_at=timezone.now() - timedelta(seconds=1))
    quotas.sweep()
    quotas.settle([Settlement(held, {T: 70})])
    assert used(team, T) == 70


def test_windows_begin_with_the_minute_and_the_month_of_utc(team, clock):
    limit(team, REQUESTS_PER_MINUTE=1, TOKENS_PER_MONTH=10)
    clock(datetime(2027, 1, 31, 23, 59, 59, 999_000, tzinfo=UTC))
    late = quotas.reserve(team.pk, {R: 1, T: 10})
    with pytest.raises(Refused):
        quotas.reserve(team.pk, {T: 1})
    clock(datetime(2027, 2, 1, 0, 0, 0, tzinfo=UTC))
    early = quotas.reserve(team.pk, {R: 1, T: 10})
    assert (early.standings[T].used, early.standings[T].resets_at) == (10, datetime(2027, 3, 1, tzinfo=UTC))
    quotas.settle([Settlement(late, {T: 3})])  # a request that began in January counts there
    with team_scope(team.pk):
        sums = dict(team.quotawindows.filter(kind=T).values_list("starts_at", "used"))
    assert sums == {datetime(2027, 1, 1, tzinfo=UTC): 3, datetime(2027, 2, 1, tzinfo=UTC): 10}


def test_limits_are_the_teams_own_else_the_platforms_else_built_in(team, other_team):
    assert quotas.limit_of(team, Quota.QUEUED_RUNS) == 100
    PlatformLimit.objects.create(kind=Quota.QUEUED_RUNS, value=7)
    limit(team, QUEUED_RUNS=3)
    assert (quotas.limit_of(team, Quota.QUEUED_RUNS), quotas.limit_of(other_team, Quota.QUEUED_RUNS)) == (3, 7)
    limit(team, QUEUED_RUNS=None)
    assert quotas.limit_of(team, Quota.QUEUED_RUNS) is None


def test_a_changed_limit_holds_for_the_next_request(team):
    limit(team, REQUESTS_PER_MINUTE=1)
    quotas.reserve(team.pk, {R: 1})
    limit(team, REQUESTS_PER_MINUTE=2)
    quotas.reserve(team.pk, {R: 1})
    limit(team, REQUESTS_PER_MINUTE=0)
    with pytest.raises(Refused):
        quotas.reserve(team.pk, {R: 1})


def test_teams_never_share_a_window(team, other_team):
    limit(team, REQUESTS_PER_MINUTE=1)
    quotas.reserve(team.pk, {R: 1})
    for _number in range(3):
        quotas.reserve(other_team.pk, {R: 1})
    assert (used(team, R), used(other_team, R)) == (1, 3)


def test_old_minutes_are_forgotten_and_months_are_kept(team, clock):
    clock(timezone.now() - timedelta(days=3))
    quotas.reserve(team.pk, {R: 1, T: 5})
    quotas.sweep()
    with all_teams("test"):
        assert list(QuotaWindow.unscoped.values_list("kind", flat=True)) == [T]


# --- many at once ------------------------------------------------------------------------------------------------


def reserve_or_not(team_id: uuid.UUID, amounts: dict[Quota, int], barrier: threading.Barrier) -> bool:
    try:
        barrier.wait()
        quotas.reserve(team_id, amounts)
    except Refused:
        return False
    finally:
        connection.close()
    return True


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("kind", "amount", "room"), [(R, 1, 1), (M, 7, 10), (T, 3, 9)])
def test_fifty_threads_at_the_last_units(team, kind, amount, room):
    limit(team, **{kind.name: 100})
    quotas.reserve(team.pk, {kind: 100 - room})
    barrier = threading.Barrier(50)
    with ThreadPoolExecutor(50) as pool:
        passed = list(pool.map(lambda _n: reserve_or_not(team.pk, {kind: amount}, barrier), range(50)))
    assert sum(passed) == room // amount
    assert used(team, kind) == 100 - room + amount * (room // amount)


RESERVING = """
from datetime import datetime
from portal import quotas
from portal.models import Quota
moment = datetime.fromisoformat(sys.argv[2])
quotas._moment = lambda: moment
kinds = {Quota.REQUESTS_PER_MINUTE: 1, Quota.TOKENS_PER_MINUTE: 10, Quota.TOKENS_PER_MONTH: 10}
from django.db import connection
connection.ensure_connection()
print("ready", flush=True)
sys.stdin.readline()
for _number in range(25):
    try:
        held = quotas.reserve(sys.argv[1], kinds)
    except quotas.Refused as refused:
        print("refused", refused.kind)
    else:
        print("passed")
        if _number % 2:
            quotas.settle([quotas.Settlement(held, {Quota.TOKENS_PER_MINUTE: 4, Quota.TOKENS_PER_MONTH: 4})])
        else:
            quotas.release(held)
"""
TAKING = RESERVING.partition("        if _number")[0]


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_processes_share_the_last_units_exactly(team):
    limit(team, REQUESTS_PER_MINUTE=60, TOKENS_PER_MINUTE=1000, TOKENS_PER_MONTH=400)
    with processes(TAKING, str(team.pk), NOON.isoformat(), count=4) as started:
        release(started)
        said = answers(started)
    assert said.count("passed") == 40  # 400 tokens a month, 10 each: the tightest of the three
    assert said.count("refused tokens_per_month") == 60
    assert (used(team, R), used(team, M), used(team, T)) == (40, 400, 400)


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_processes_that_reserve_settle_and_give_back_end_with_the_true_sum(team):
    with processes(RESERVING, str(team.pk), NOON.isoformat(), count=4) as started:
        release(started)
        assert answers(started).count("passed") == 100
    assert (used(team, R), used(team, M), used(team, T)) == (48, 192, 192)
    with all_teams("test"):
        assert not QuotaReservation.unscoped.exists()


def test_counters_survive_a_new_connection(team, transactional_db):
    held = quotas.reserve(team.pk, {T: 5})
    connection.close()
    quotas.settle([Settlement(held, {T: 4})])
    connection.close()
    assert used(team, T) == 4

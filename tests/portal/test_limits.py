"""Limits that platform admins set, and what teams are told when they reach them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.core import mail
from django.db import connection

from portal import alerts, limits, quotas, tasks, teams, usage
from portal.errors import InvalidInput
from portal.models import AuditEvent, Quota, Role, Team
from portal.rls import team_scope


def standing(team, kind: Quota) -> quotas.Standing:
    with team_scope(team.pk):
        return next(one for one in usage.standings(team) if one.kind == kind)


def test_defaults_and_own_limits(team, other_team, actor):
    assert limits.default_limits()[Quota.DEPLOYMENTS] == 50
    limits.set_default(kind=Quota.DEPLOYMENTS, value=5, actor=actor)
    limits.set_team_limit(team=team, kind=Quota.DEPLOYMENTS, value=7, actor=actor)
    assert (standing(team, Quota.DEPLOYMENTS).limit, standing(other_team, Quota.DEPLOYMENTS).limit) == (7, 5)
    limits.set_team_limit(team=team, kind=Quota.DEPLOYMENTS, value=None, actor=actor)
    assert standing(team, Quota.DEPLOYMENTS).limit is None
    limits.clear_team_limit(team=team, kind=Quota.DEPLOYMENTS, actor=actor)
    assert standing(team, Quota.DEPLOYMENTS).limit == 5
    limits.clear_team_limit(team=team, kind=Quota.DEPLOYMENTS, actor=actor)
    trail = AuditEvent.objects.filter(action__startswith="limit.").order_by("at").values_list("action", flat=True)
    assert list(trail) == ["limit.default_changed", "limit.changed", "limit.changed", "limit.cleared"]


def test_runs_at_the_same_time_reach_the_scheduler(team, other_team, actor, alice):
    limits.set_team_limit(team=team, kind=Quota.CONCURRENT_RUNS, value=7, actor=actor)
    limits.set_default(kind=Quota.CONCURRENT_RUNS, value=3, actor=actor)
    third = teams.create_team(name="Third", owner=alice, actor=actor)

    def known() -> list[int]:
        return [Team.objects.get(pk=one.pk).max_concurrent_runs for one in (team, other_team, third)]

    assert known() == [7, 3, 3]
    limits.clear_team_limit(team=team, kind=Quota.CONCURRENT_RUNS, actor=actor)
    assert known() == [3, 3, 3]
    limits.set_default(kind=Quota.CONCURRENT_RUNS, value=None, actor=actor)
    assert known() == [32767] * 3


def test_a_limit_is_no_negative_number(team, actor):
    with pytest.raises(InvalidInput):
        limits.set_team_limit(team=team, kind=Quota.STORAGE_BYTES, value=-1, actor=actor)


def test_admins_are_told_once_of_each_step(team, actor, charlie, django_capture_on_commit_callbacks):
    with team_scope(team.pk):
        team.memberships.create(user=charlie, role=Role.ADMIN)
    limits.set_team_limit(team=team, kind=Quota.TOKENS_PER_MONTH, value=100, actor=actor)

    def use_and_watch(tokens: int) -> list[tuple[str, str]]:
        mail.outbox.clear()
        quotas.reserve(team.pk, {Quota.TOKENS_PER_MONTH: tokens})
        with django_capture_on_commit_callbacks(execute=True):
            tasks.watch_usage()
            tasks.watch_usage()
        return sorted((one.to[0], one.subject) for one in mail.outbox)

    assert use_and_watch(79) == []
    subject = "Service Desk has used 80% of a limit: Tokens a month"
    assert use_and_watch(1) == [("alice@example.org", subject), ("charlie@example.org", subject)]
    assert use_and_watch(5) == []
    assert {one[1] for one in use_and_watch(15)} == {"Service Desk has used 100% of a limit: Tokens a month"}
    assert "used 100 of 100" in mail.outbox[0].body
    assert AuditEvent.objects.filter(action="limit.reached", team_id=team.pk).count() == 2
    with team_scope(team.pk):
        assert [(one.kind, one.percent) for one in alerts.current(team)] == [(Quota.TOKENS_PER_MONTH, 100)]
    limits.set_team_limit(team=team, kind=Quota.TOKENS_PER_MONTH, value=1000, actor=actor)
    alerts.check_all()
    with team_scope(team.pk):
        assert alerts.current(team) == []


def test_both_steps_at_once_are_one_letter(team, actor, django_capture_on_commit_callbacks):
    limits.set_team_limit(team=team, kind=Quota.TOKENS_PER_MONTH, value=10, actor=actor)
    quotas.reserve(team.pk, {Quota.TOKENS_PER_MONTH: 10})
    with django_capture_on_commit_callbacks(execute=True):
        alerts.check_all()
    assert [one.to for one in mail.outbox] == [["alice@example.org"]]


@pytest.mark.django_db(transaction=True)
def test_many_watchers_send_one_letter(team, actor):
    limits.set_team_limit(team=team, kind=Quota.TOKENS_PER_MONTH, value=10, actor=actor)
    quotas.reserve(team.pk, {Quota.TOKENS_PER_MONTH: 9})
    barrier = threading.Barrier(8)

    def watch(_number: int) -> int:
        try:
            barrier.wait()
            return alerts.check_all()
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(watch, range(8))) == 1
    assert len(mail.outbox) == 1


def test_storage_is_measured_by_day(team, ready_version):
    tasks.watch_usage()
    with team_scope(team.pk):
        day = team.usagedays.get()
        assert day.storage_bytes == usage.storage_bytes(team) > 0
    tasks.watch_usage()
    with team_scope(team.pk):
        assert team.usagedays.count() == 1

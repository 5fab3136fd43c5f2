"""A statement on connections of its own: types, changes of hands, and servers that go away."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from django.db import Error, connection

from portal.lane import CONNECTIONS, Lane

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]
MOMENT = datetime(2027, 3, 5, 10, 0, 58, tzinfo=UTC)
STATEMENT = "SELECT $1::text, $2::bigint, $3::timestamptz + $4::interval, $5::uuid IS NULL, ($6::text[])[2], pg_backend_pid()::bigint"  # noqa: E501


@pytest.fixture
def lane(settings):
    settings.DATABASE_POOL = 4
    one = Lane(STATEMENT)
    yield one
    for raw in one._idle:
        raw.close()


def values(number: int = 7) -> list[object]:
    return ["naïve 'quote' \\", number, MOMENT, timedelta(minutes=15), None, ["a", 'b,"\\{']]


def test_values_arrive_as_they_were_sent_on_either_way(lane, settings):
    expected = ("naïve 'quote' \\", 7, MOMENT + timedelta(minutes=15), True, 'b,"\\{')
    [own] = lane.fetch("test", values())
    settings.DATABASE_POOL = 0
    [djangos] = lane.fetch("test", values())
    assert own[:5] == djangos[:5] == expected
    assert own[5] != djangos[5]


def test_many_threads_share_few_connections(lane):
    with ThreadPoolExecutor(16) as threads:
        rows = [rows[0] for rows in threads.map(lambda number: lane.fetch("test", values(number)), range(64))]
    assert [row[1] for row in rows] == list(range(64))
    assert len({row[5] for row in rows}) <= CONNECTIONS


def test_a_connection_that_the_server_closed_is_replaced(lane):
    [first] = lane.fetch("test", values())
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [first[5]])
    [second] = lane.fetch("test", values())
    assert second[5] != first[5]


def test_a_pooler_that_forgets_statements_is_served_without_them(lane):
    [first] = lane.fetch("test", values())
    lane._idle[0].execute("DEALLOCATE ALL")
    assert lane.fetch("test", values()) == [first]


def test_a_connection_that_knows_another_statement_runs_ours(lane):
    other = Lane("SELECT $1::bigint")
    lane.fetch("test", values())
    other._idle.append(lane._idle.pop())
    try:
        assert other.fetch("test", [5]) == [(5,)]
    finally:
        other._idle.pop().close()


def test_errors_are_djangos_and_leave_the_lane_usable(lane):
    wrong = values()
    wrong[1] = 2**70
    for _time in range(CONNECTIONS + 1):
        with pytest.raises(Error):
            lane.fetch("test", wrong)
    assert lane.fetch("test", values())[0][1] == 7
    assert uuid.UUID(int=5).hex not in str(lane.fetch("test", [*values()[:4], uuid.UUID(int=5), ["a", "b"]]))

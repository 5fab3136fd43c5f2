"""A log of a hundred megabytes opens as quickly as a short one: what is read of it does not grow, and is escaped."""

from __future__ import annotations

import json

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from experiments.log_lines import SHOWN_LINES
from experiments.models import Run, RunEvent
from portal.rls import team_scope
from tests.experiments.runs import make_version, put_to_work, submit

pytestmark = [pytest.mark.django_db, pytest.mark.slow]

LINES, CHARACTERS = 100_000, 1_000
TAG = "<script>alert(1)</script>"
# Every line differs, so that nothing is compressed away.
FILL = """
INSERT INTO experiments_runevent (team_id, run_id, at, level, kind, message)
SELECT %s, %s, now(), 'info', 'log', rpad(md5(n::text) || ' ' || %s || ' line ' || n, %s, md5(n::text || 'x'))
FROM generate_series(1, %s) AS n
"""
MOST_BLOCKS = 1_000  # of 8 KB: a hundredth of what the log occupies would be 130


@pytest.fixture
def run(team, actor, base_model, node) -> Run:
    return submit(team, actor, make_version(team), base_model)


@pytest.fixture
def told(run, node) -> int:
    """How many lines there are."""
    put_to_work(run, node)
    with team_scope(run.team_id), connection.cursor() as cursor:
        cursor.execute(FILL, [run.team_id, run.pk, TAG, CHARACTERS, LINES])
        cursor.execute("ANALYZE experiments_runevent")
        cursor.execute("SELECT sum(length(message)) FROM experiments_runevent WHERE run_id = %s", [run.pk])
        assert cursor.fetchone()[0] >= 100_000_000
        return RunEvent.unscoped.filter(run=run).count()


def blocks_read(run: Run, queries: list[str]) -> int:
    """How many blocks the database looks at for these queries."""
    total = 0
    with team_scope(run.team_id), connection.cursor() as cursor:
        for query in queries:
            cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {query}")
            plan = cursor.fetchone()[0]
            root = (json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"]
            total += root["Shared Hit Blocks"] + root["Shared Read Blocks"]
    return total


def messages_read(sent: CaptureQueriesContext) -> list[str]:
    """The queries that fetch whole lines, not only their number."""
    return [query["sql"] for query in sent.captured_queries if '"experiments_runevent"."message"' in query["sql"]]


def test_its_page_reads_the_last_lines_alone(run, told, client_for, alice):
    browser = client_for(alice)
    with CaptureQueriesContext(connection) as sent:
        page = browser.get(f"/t/service-desk/runs/{run.pk}/").content.decode()
    assert f"line {LINES}" in page
    assert page.count("&lt;script&gt;alert(1)") == SHOWN_LINES
    assert TAG not in page
    assert f'data-log-first="{told - SHOWN_LINES}"' in page
    assert len(page) < 3 * SHOWN_LINES * CHARACTERS
    lines = messages_read(sent)
    assert lines
    assert blocks_read(run, lines) < MOST_BLOCKS


def test_following_it_reads_what_is_new(run, told, client_for, alice):
    browser = client_for(alice)
    with CaptureQueriesContext(connection) as sent:
        assert browser.get(f"/t/service-desk/runs/{run.pk}/log/?after={told}").status_code == 204
        news = browser.get(f"/t/service-desk/runs/{run.pk}/log/?after={told - 3}").content.decode()
    assert news.count("&lt;script&gt;") == 3
    assert blocks_read(run, messages_read(sent)) < MOST_BLOCKS

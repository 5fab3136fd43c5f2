"""Requests that were answered by a process that was killed before they were in the ledger."""

from __future__ import annotations

import os
import signal
import time

import pytest

from deployments import journal, metering
from deployments.metering import Ledger, take_up
from deployments.models import InferenceRecord, LedgerJournal
from portal import quotas
from portal.models import Quota, QuotaReservation, QuotaWindow
from portal.quotas import Settlement
from portal.rls import all_teams
from tests.deployments.test_metering import record, written

transactional = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def own_folder(settings, tmp_path):
    settings.DATA_DIR = tmp_path


def killed_after(answering) -> None:
    """Run something in a process of its own that is killed, as by the kernel, right behind it."""
    child = os.fork()
    if child == 0:
        answering()
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL


def die(ledger: Ledger) -> None:
    """What is left of a ledger when its process is killed."""
    ledger._waiting.clear()
    ledger._journal.leave()


@transactional
def test_what_a_killed_process_answered_is_counted_once(team):
    reservation = quotas.reserve(team.pk, {Quota.TOKENS_PER_MONTH: 1000})
    settlement = Settlement(reservation, {Quota.TOKENS_PER_MONTH: 7})
    ledger = Ledger(flush_every_s=3600)

    def answer() -> None:
        one = record(team)
        one.prompt_tokens, one.completion_tokens = 5, 2
        ledger.add(one, settlement)

    killed_after(answer)
    assert written() == []
    assert take_up() == 1
    assert take_up() == 0
    with all_teams("test reads the ledger"):
        [row] = InferenceRecord.unscoped.all()
        assert (row.prompt_tokens, row.completion_tokens, row.team_id) == (5, 2, team.pk)
        assert not QuotaReservation.unscoped.exists()
        assert [window.used for window in QuotaWindow.unscoped.filter(kind=Quota.TOKENS_PER_MONTH)] == [7]
    assert journal.paths() == []


@transactional
def test_what_is_in_the_ledger_already_is_not_counted_again(team):
    ledger = Ledger(flush_every_s=3600)
    first, second = record(team), record(team)
    first.request_id, second.request_id = "req_first", "req_second"
    ledger.add(first)
    ledger.flush()
    ledger.add(second)
    assert take_up() == 0  # its process lives
    die(ledger)
    assert take_up() == 1
    assert sorted(row.request_id for row in written()) == ["req_first", "req_second"]


@transactional
def test_a_line_that_was_cut_short_is_passed_over(team):
    ledger = Ledger(flush_every_s=3600)
    ledger.add(record(team))
    os.write(ledger._journal._descriptor, b'{"team_id": "')
    die(ledger)
    assert take_up() == 1
    assert len(written()) == 1


@transactional
def test_a_long_journal_whose_entries_are_in_the_ledger_is_renewed(team, monkeypatch):
    monkeypatch.setattr(journal, "_LONG_BYTES", 100)
    ledger = Ledger(flush_every_s=3600)
    ledger.add(record(team))
    [before] = journal.paths()
    ledger.flush()
    ledger.add(record(team))
    [now] = journal.paths()
    assert now != before
    die(ledger)
    assert take_up() == 1
    monkeypatch.setattr(metering, "_PLACES_KEPT", metering.timedelta())
    take_up()
    assert not LedgerJournal.objects.exists()


@transactional
def test_a_disk_that_takes_nothing_costs_nobody_an_answer(team, settings, tmp_path):
    (tmp_path / "run").write_text("a file where the folder should be")
    ledger = Ledger(flush_every_s=3600)
    ledger.add(record(team))
    ledger.flush()
    assert len(written()) == 1

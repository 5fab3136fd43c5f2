"""Requests that were answered by a process that was killed before they were in the ledger."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
from django.db import OperationalError, connection

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
def test_what_a_process_of_an_earlier_version_left_is_counted(team):
    entry = metering._entry_of(metering.Counted(record(team)))
    del entry["attempt"]
    ledger = Ledger(flush_every_s=3600)
    ledger._journal.add(entry)
    die(ledger)
    assert take_up() == 1
    assert [row.attempt for row in written()] == [""]


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
def test_neither_a_full_disk_nor_a_line_that_cannot_be_read_hides_what_is_behind_it(team, monkeypatch):
    ledger = Ledger(flush_every_s=3600)
    ledger.add(record(team, 1))
    with monkeypatch.context() as patch:
        whole = os.write
        patch.setattr(journal.os, "write", lambda descriptor, line: whole(descriptor, line[:20]))
        ledger.add(record(team, 2))
    ledger.add(record(team, 3))
    os.write(ledger._journal._descriptor, b"\0\0\0\n{}\n[]\n")
    ledger._journal._length += 10
    ledger.add(record(team, 4))
    die(ledger)
    assert take_up() == 3
    assert [row.request_id for row in written()] == ["req_1", "req_3", "req_4"]
    assert journal.paths() == []


@transactional
def test_what_was_written_before_the_database_said_so_is_not_written_again(team, monkeypatch):
    """The answer to the COMMIT is lost: nobody knows whether it was carried out."""
    ledger = Ledger(flush_every_s=3600)
    ledger.add(record(team, 1))
    write = metering._write

    def write_and_lose_the_answer(batch: list) -> None:
        write(batch)
        raise OperationalError("the connection broke")

    with monkeypatch.context() as patch:
        patch.setattr(metering, "_write", write_and_lose_the_answer)
        with pytest.raises(OperationalError):
            ledger.flush()
    ledger.add(record(team, 2))
    ledger.flush()
    assert [row.request_id for row in written()] == ["req_1", "req_2"]


@transactional
def test_a_commit_that_outlives_its_process_is_waited_for(team):
    ledger = Ledger(flush_every_s=3600)
    ledger.add(record(team, 1))
    batch = list(ledger._waiting)
    is_open, may_end = threading.Event(), threading.Event()

    def commit_late() -> None:
        with all_teams("the database still works for a process that died"):
            metering._write(batch)
            is_open.set()
            may_end.wait(20)
        connection.close()

    late = threading.Thread(target=commit_late)
    late.start()
    assert is_open.wait(20)
    die(ledger)
    threading.Timer(0.3, may_end.set).start()
    take_up()
    late.join()
    assert [row.request_id for row in written()] == ["req_1"]


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

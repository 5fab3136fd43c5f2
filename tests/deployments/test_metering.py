"""Counting requests in batches: complete, once each, also when rows are gone or the database is away."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest
from django.db import InternalError, OperationalError, connection

from deployments import inference, known_targets, metering
from deployments.ledger_rows import LedgerRow
from deployments.metering import Ledger
from deployments.models import InferenceRecord
from portal.errors import PortalError
from portal.rls import all_teams, team_scope
from tests.deployments.conftest import wait_for

transactional = pytest.mark.django_db(transaction=True)


@pytest.fixture
def ledger() -> Ledger:
    """A ledger whose thread never gets to write: the test flushes."""
    return Ledger(flush_every_s=3600)


def record(team, number: int = 0, **facts: object) -> LedgerRow:
    return LedgerRow(team_id=team.pk, model="m", request_id=f"req_{number}", status=200, duration_ms=1, **facts)


def written() -> list[InferenceRecord]:
    with all_teams("test reads counts"):
        return list(InferenceRecord.unscoped.order_by("id"))


@transactional
def test_records_of_all_teams_are_written_together_and_once(ledger, team, other_team):
    for number in range(20):
        ledger.add(record((team, other_team)[number % 2], number))
    assert written() == []
    ledger.flush()
    ledger.flush()
    assert [row.request_id for row in written()] == [f"req_{number}" for number in range(20)]
    assert {row.team_id for row in written()} == {team.pk, other_team.pk}


@transactional
def test_a_record_whose_token_or_version_is_gone_is_counted_without_it(ledger, team, deployed):
    ledger.add(record(team, 1, version_id=deployed.pk))
    ledger.add(record(team, 2, version_id=uuid.uuid4(), token_id=uuid.uuid4()))
    ledger.add(LedgerRow(team_id=uuid.uuid4(), model="m", request_id="req_3", status=200, duration_ms=1))
    ledger.flush()
    assert [(row.request_id, row.version_id) for row in written()] == [("req_1", deployed.pk), ("req_2", None)]


@transactional
def test_records_wait_while_the_database_is_away(ledger, team, monkeypatch):
    def away(batch: list) -> None:
        raise OperationalError("the database is away")

    ledger.add(record(team, 1))
    with monkeypatch.context() as patch:
        patch.setattr(metering, "_write", away)
        with pytest.raises(OperationalError):
            ledger.flush()
    ledger.add(record(team, 2))
    ledger.flush()
    assert [row.request_id for row in written()] == ["req_1", "req_2"]


@transactional
@pytest.mark.parametrize("failure", [InternalError("half of it"), RuntimeError("what nobody foresaw")])
def test_no_failure_loses_a_batch(ledger, team, monkeypatch, failure):
    ledger.add(record(team, 1))
    with monkeypatch.context() as patch:
        patch.setattr(metering.usage, "add_requests", raising(failure))
        with pytest.raises(type(failure)):
            ledger.flush()
    assert written() == []
    ledger.flush()
    assert [row.request_id for row in written()] == ["req_1"]


@transactional
def test_a_record_that_cannot_be_stored_is_dropped_alone(ledger, team, caplog):
    for number in (1, 2, 3):
        ledger.add(record(team, number, prompt_tokens=2**40 if number == 2 else 5))
    ledger.flush()
    assert [row.request_id for row in written()] == ["req_1", "req_3"]
    assert "req_2 is not counted: DataError" in caplog.text


@transactional
def test_what_was_written_alone_is_not_written_again_after_the_database_went_away(ledger, team, monkeypatch):
    ledger.add(record(team, 1))
    ledger.add(LedgerRow(team_id=uuid.uuid4(), model="m", request_id="req_2", status=200, duration_ms=1))
    alone = metering._write_alone
    with monkeypatch.context() as patch:
        away = raising(OperationalError("the database is away"))
        patch.setattr(
            metering, "_write_alone", lambda one: alone(one) if one.record.request_id == "req_1" else away(one)
        )
        with pytest.raises(OperationalError):
            ledger.flush()
    ledger.flush()
    assert [row.request_id for row in written()] == ["req_1"]


def raising(failure: Exception) -> Callable[..., None]:
    def fail(*_arguments: object) -> None:
        raise failure

    return fail


@transactional
def test_the_thread_writes_by_itself(team):
    Ledger().add(record(team))
    assert wait_for(lambda: len(written()) == 1)


def test_within_a_transaction_a_record_is_written_at_once(db, team):
    assert connection.in_atomic_block
    Ledger().add(record(team))
    assert len(written()) == 1


def test_where_a_version_is_loaded_is_remembered_until_its_engine_fails(team, deployed, engine, monkeypatch):
    first = inference.resolve(team, "demo-triage")
    with team_scope(team.pk):
        deployed.adapter.placements.update(status="pending")
    assert inference.resolve(team, "demo-triage") == first
    engine.shutdown()
    engine.server_close()
    body = {"messages": [{"role": "user", "content": "x"}]}
    with pytest.raises(PortalError):
        inference.complete(inference.admit(first, body, inference.Caller(team, "req_1")))
    with pytest.raises(PortalError) as caught:
        inference.resolve(team, "demo-triage")
    assert caught.value.code == "model_loading"


def test_stopping_and_promoting_take_effect_with_the_next_request(
    team, actor, deployed, make_run, node, load_placements
):
    from deployments import services

    assert inference.resolve(team, "demo-triage").version_id == deployed.pk
    with team_scope(team.pk):
        second = services.deploy_run(team=team, actor=actor, run=make_run(team, "Second"), name="demo-triage")
    load_placements(node)
    assert inference.resolve(team, "demo-triage").version_id == second.pk
    with team_scope(team.pk):
        services.stop_deployment(deployment=second.deployment, actor=actor)
    with pytest.raises(PortalError) as caught:
        inference.resolve(team, "demo-triage")
    assert caught.value.code == "deployment_stopped"
    assert known_targets.KNOWN_FOR_S == 1.0

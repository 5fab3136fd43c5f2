"""What machines report: one winner per claim, nothing written without the lease, each event once, each end clean."""

import json
import threading
import uuid
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from datasets_app.models import Split
from experiments import lifecycle, results, scheduling, services
from experiments.leases import Lease, LeaseLost
from experiments.models import Adapter, Evaluation, MetricPoint, Run, RunEvent
from gpu_worker.node import MAINTAIN_EVERY_S, TICK_S
from portal.models import AuditEvent, Membership, Role
from portal.rls import all_teams, team_scope
from tests.experiments.runs import (
    change,
    fresh,
    let_lease_run_out,
    make_version,
    put_to_work,
    queued_tasks,
    submit,
    write_adapter,
)

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def old_database(monkeypatch):
    """As if the server had been up for long; a test run may begin seconds after its start."""
    monkeypatch.setattr(lifecycle, "_database_is_fresh", lambda: False)


@pytest.fixture
def run(team, actor, base_model):
    return submit(team, actor, make_version(team), base_model)


@pytest.fixture
def lease(run, node):
    return put_to_work(run, node)


@pytest.fixture
def assigned(run, node):
    scheduling.dispatch()
    return Lease(run.pk, fresh(run).lease_token)


def points(run):
    with all_teams("test"):
        return {point.step: point.values for point in MetricPoint.unscoped.filter(run=run)}


def lines(run):
    with all_teams("test"):
        return list(RunEvent.unscoped.filter(run=run).order_by("id").values_list("kind", "message"))


def last_audit():
    return AuditEvent.objects.order_by("-at").values_list("action", flat=True).first()


def metric(step, **values):
    return {"event": "metric", "at": 1_780_000_000.0 + step, "step": step, "total_steps": 10, **values}


# --- claiming ----------------------------------------------------------------------------------------------------


def test_a_claim_starts_the_run_and_a_second_one_gets_nothing(run, assigned):
    assert lifecycle.is_waiting_for(assigned)
    claimed = lifecycle.claim_run(assigned)
    assert claimed is not None
    assert claimed.status == "running"
    assert claimed.started_at is not None
    assert not lifecycle.is_waiting_for(assigned)
    assert lifecycle.claim_run(assigned) is None


def test_an_old_message_claims_nothing(run, assigned):
    let_lease_run_out(run)
    assert lifecycle.sweep() == 1
    assert fresh(run).lease_token not in (None, assigned.token)
    assert lifecycle.claim_run(assigned) is None
    assert lifecycle.claim_run(Lease(run.pk, run.lease_token)) is not None


def test_a_cancelled_run_is_not_claimed(team, actor, run, assigned):
    with team_scope(team.pk):
        services.cancel_run(run=run, actor=actor)
    assert lifecycle.claim_run(assigned) is None
    assert fresh(run).status == "cancelled"


@pytest.mark.django_db(transaction=True)
def test_of_many_claims_at_once_exactly_one_wins(run, assigned):
    won = []
    start = threading.Barrier(8)

    def claim():
        try:
            start.wait()
            if lifecycle.claim_run(assigned):
                won.append(True)
        finally:
            connection.close()

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert won == [True]


@pytest.mark.parametrize("demote", [True, False])
def test_who_lost_the_right_to_train_does_not_train(team, alice, run, assigned, demote):
    with all_teams("test"):
        mine = Membership.unscoped.filter(team=team, user=alice)
        mine.update(role=Role.VIEWER) if demote else mine.delete()
    assert lifecycle.claim_run(assigned) is None
    assert (fresh(run).status, run.error_code, run.lease_token) == ("failed", "submitter_lost_access", None)


# --- fencing -----------------------------------------------------------------------------------------------------

STALE_REPORTS = {
    "renew": lambda lease, folder: lifecycle.renew_lease(lease),
    "events": lambda lease, folder: lifecycle.record_events(
        lease, [metric(1, loss=1.0), {"event": "log", "message": "late"}], span=(0, 99)
    ),
    "note": lambda lease, folder: lifecycle.note(lease, "late"),
    "crash": lambda lease, folder: lifecycle.note_crash(lease, "late"),
    "finish": lambda lease, folder: lifecycle.finish_run(
        lease, adapter=write_adapter(folder), step=1, predictions=None, split=Split.TEST
    ),
    "stop": lambda lease, folder: lifecycle.stop_run(lease, adapter=write_adapter(folder), step=1),
    "fail": lambda lease, folder: lifecycle.fail_run(lease, code="internal", message="late"),
    "release": lambda lease, folder: lifecycle.release_run(lease, "late"),
}


@pytest.mark.parametrize("report", STALE_REPORTS)
@pytest.mark.parametrize("why", ["swept", "given_away", "cancelled", "deleted"])
def test_a_stale_lease_changes_nothing(run, lease, tmp_path, report, why):
    if why == "swept":
        change(run, status="queued", lease_token=None)
    elif why == "given_away":
        change(run, lease_token=uuid.uuid4())
    elif why == "cancelled":
        change(run, status="cancelled")
    else:
        with all_teams("test"):
            run.delete()
    with all_teams("test"):
        before = list(Run.unscoped.values())
    with pytest.raises(LeaseLost):
        STALE_REPORTS[report](lease, tmp_path / "adapter")
    with all_teams("test"):
        assert list(Run.unscoped.values()) == before
        assert not MetricPoint.unscoped.exists()
        assert not RunEvent.unscoped.exists()
        assert not Adapter.unscoped.exists()
    assert not list((tmp_path / "var").rglob("adapter_model.safetensors"))


# --- the lease ---------------------------------------------------------------------------------------------------


def test_renewing_prolongs_charges_and_tells_of_a_request_to_stop(run, lease, settings):
    settings.LEASE_SECONDS = 30
    change(run, lease_until=timezone.now() + timedelta(seconds=20))
    assert lifecycle.renew_lease(lease) is False
    assert 9.5 < fresh(run).gpu_seconds < 13
    assert run.lease_until > timezone.now() + timedelta(seconds=25)
    change(run, cancel_requested_at=timezone.now())
    assert lifecycle.renew_lease(lease) is True
    assert fresh(run).gpu_seconds < 14


def test_a_lease_that_ran_out_can_be_renewed_while_nobody_took_the_run(run, lease):
    let_lease_run_out(run)
    lifecycle.renew_lease(lease)
    assert fresh(run).lease_until > timezone.now()
    assert lifecycle.sweep() == 0


# --- events ------------------------------------------------------------------------------------------------------


def test_reports_of_a_training_reach_the_run(run, lease):
    lifecycle.record_events(
        lease,
        [
            {"event": "phase", "at": 1.0, "phase": "training"},
            {"event": "started", "at": 1.0, "total_steps": 10, "rows": 12, "device": "cpu", "path": "fast"},
            metric(1, loss=2.5, eta_s=9.0),
            metric(2, loss=2.0, eta_s=8.0, learning_rate=0.001),
            {"event": "checkpoint", "at": 3.0, "step": 2, "path": "checkpoints/step-2"},
            {"event": "log", "at": 3.0, "level": "warning", "message": "2 rows were cut."},
        ],
        span=(0, 640),
    )
    fresh(run)
    assert (run.phase, run.step, run.total_steps, run.eta_s, run.checkpoint_step) == ("training", 2, 10, 8.0, 2)
    assert run.events_offset == 640
    assert run.facts["started"] == {"total_steps": 10, "rows": 12, "device": "cpu", "path": "fast"}
    assert points(run) == {1: {"loss": 2.5}, 2: {"loss": 2.0, "learning_rate": 0.001}}
    assert [kind for kind, _ in lines(run)] == ["phase", "checkpoint", "log"]


def test_a_step_reported_in_parts_or_twice_is_one_point_that_readers_see_again(run, lease):
    lifecycle.record_events(lease, [metric(5, loss=1.5), metric(5, validation_loss=1.25), metric(6, loss=1.4)])
    assert points(run) == {5: {"loss": 1.5, "validation_loss": 1.25}, 6: {"loss": 1.4}}
    with all_teams("test"):
        newest = MetricPoint.unscoped.order_by("-id").values_list("id", flat=True)[0]
    lifecycle.record_events(lease, [metric(5, loss=1.5, validation_loss=1.0)])
    assert points(run)[5] == {"loss": 1.5, "validation_loss": 1.0}
    with all_teams("test"):
        assert MetricPoint.unscoped.get(id__gt=newest).step == 5


def test_a_report_that_is_repeated_because_its_answer_was_lost_is_written_once(run, lease):
    said = [{"event": "log", "message": "once"}]
    for _ in range(2):
        lifecycle.record_events(lease, said, span=(0, 40))
    lifecycle.record_events(lease, [{"event": "log", "message": "next"}], span=(40, 80))
    assert [text for _, text in lines(run)] == ["once", "next"]


def test_a_resumed_training_goes_back_to_its_checkpoint(run, lease):
    lifecycle.record_events(lease, [metric(7, loss=1.0)])
    lifecycle.record_events(lease, [{"event": "started", "total_steps": 10, "resumed_from_step": 5}])
    assert fresh(run).step == 5
    assert lines(run) == [("resumed", "The run goes on from step 5.")]


def test_values_that_the_database_would_refuse_do_no_harm(run, lease):
    lifecycle.record_events(
        lease,
        [
            metric(1, loss=float("nan"), grad_norm=float("inf"), tokens_per_s="many", memory_bytes=10**400, epoch=True),
            metric(2**40, loss=1.0),
            metric(-1, loss=1.0),
            {"event": "log", "message": "null \x00 and lone \ud800", "level": "shout", "at": 1e300},
            {"event": "log", "message": "x" * 100_000},
            {"event": "phase", "phase": ["odd"]},
            {"event": "started", "total_steps": "ten", "rows": float("nan"), "nested": {"a": 1}, "why": "\x00"},
            {"event": "unknown", "anything": 1},
            {"event": "metric"},
        ],
    )
    assert points(run) == {1: dict.fromkeys(["loss", "grad_norm", "tokens_per_s", "memory_bytes", "epoch"])}
    assert lines(run)[0] == ("log", "null  and lone ?")
    assert len(lines(run)[1][1]) == 2_000
    assert fresh(run).facts["started"] == {"total_steps": "ten", "rows": None, "why": ""}


def test_reports_tell_of_a_request_to_stop(run, lease):
    assert lifecycle.record_events(lease, [metric(1)]) is False
    change(run, cancel_requested_at=timezone.now())
    assert lifecycle.record_events(lease, []) is True


# --- ends --------------------------------------------------------------------------------------------------------


def test_a_finished_run_leaves_an_adapter_and_frees_its_slot(run, lease, tmp_path, django_capture_on_commit_callbacks):
    change(run, deploy_as="triage")
    source = write_adapter(tmp_path / "job" / "adapter")
    with django_capture_on_commit_callbacks(execute=True):
        lifecycle.finish_run(lease, adapter=source, step=10, predictions=None, split=Split.VALIDATION)
    fresh(run)
    assert (run.status, run.lease_token, run.phase) == ("succeeded", None, "")
    assert run.ended_at is not None
    with all_teams("test"):
        adapter = Adapter.unscoped.select_related("team").get(run=run)
    assert (adapter.step, adapter.base_model_id) == (10, run.base_model_id)
    assert sorted(path.name for path in adapter.folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert adapter.size_bytes == sum(path.stat().st_size for path in adapter.folder.iterdir())
    assert last_audit() == "run.succeeded"
    names = [name for _, name, _ in queued_tasks()]
    assert "experiments.tasks.dispatch" in names
    assert ("default", "deployments.tasks.deploy_finished_run", (str(run.pk),)) in queued_tasks()


def test_files_of_an_attempt_that_died_before_its_commit_are_replaced(run, lease, tmp_path):
    first = write_adapter(tmp_path / "one", filling=b"dead")
    placed = results.place_adapter(lifecycle.load_run(run.pk), first)
    lifecycle.finish_run(
        lease, adapter=write_adapter(tmp_path / "two"), step=1, predictions=None, split=Split.VALIDATION
    )
    with all_teams("test"):
        adapter = Adapter.unscoped.get(run=run)
    assert adapter.pk == placed.id
    assert adapter.sha256 != placed.sha256


@pytest.mark.parametrize("damage", ["no_folder", "no_config", "short_weights", "garbage"])
def test_half_an_adapter_is_no_success(run, lease, tmp_path, damage):
    folder = tmp_path / "adapter"
    if damage != "no_folder":
        write_adapter(folder)
    weights = folder / "adapter_model.safetensors"
    if damage == "no_config":
        (folder / "adapter_config.json").unlink()
    elif damage == "short_weights":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif damage == "garbage":
        weights.write_bytes(b"\xff" * 64)
    with pytest.raises(results.IncompleteAdapter):
        lifecycle.finish_run(lease, adapter=folder, step=1, predictions=None, split=Split.TEST)
    assert fresh(run).status == "running"


def test_answers_that_cannot_be_judged_do_not_cost_the_adapter(run, lease, tmp_path):
    broken = tmp_path / "predictions.jsonl"
    broken.write_text("not json\n")
    lifecycle.finish_run(
        lease, adapter=write_adapter(tmp_path / "adapter"), step=3, predictions=broken, split=Split.VALIDATION
    )
    assert fresh(run).status == "succeeded"
    assert any("quality report could not be made" in text for _, text in lines(run))


def test_answers_may_hold_anything(run, lease, tmp_path):
    odd = [{"service": "a\x00b"}, {"service": "\ud800"}, {"service": float("nan")}, "\x00", None]
    answers = [
        {"row": row, "prompt": "p\x00", "expected": '{"service": "VPN"}', "tuned": json.dumps(value), "untuned": "\x00"}
        for row, value in enumerate(odd)
    ]
    predictions = tmp_path / "predictions.jsonl"
    predictions.write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    lifecycle.finish_run(
        lease, adapter=write_adapter(tmp_path / "adapter"), step=3, predictions=predictions, split=Split.VALIDATION
    )
    with all_teams("test"):
        evaluation = Evaluation.unscoped.get(run=run)
        assert evaluation.answers.count() == evaluation.rows == 5


def test_a_stopped_run_keeps_what_it_learned(run, lease, tmp_path):
    lifecycle.stop_run(lease, adapter=write_adapter(tmp_path / "adapter"), step=4)
    with all_teams("test"):
        assert Adapter.unscoped.get(run=run).step == 4
    assert fresh(run).status == "cancelled"
    assert last_audit() == "run.cancelled"


def test_a_run_stopped_before_it_learned_anything_leaves_nothing(run, lease, tmp_path):
    lifecycle.stop_run(lease, adapter=tmp_path / "missing", step=0)
    assert fresh(run).status == "cancelled"
    with all_teams("test"):
        assert not Adapter.unscoped.exists()


def test_a_failed_run_says_why(run, lease):
    lifecycle.fail_run(lease, code="nan_loss", message="The loss became NaN. Lower the learning rate.")
    fresh(run)
    assert (run.status, run.error_code) == ("failed", "nan_loss")
    assert run.error_message.startswith("The loss became NaN")
    assert last_audit() == "run.failed"


def test_a_released_run_waits_again_without_losing_an_attempt(run, lease):
    change(run, attempt=2, checkpoint_step=50)
    lifecycle.release_run(lease, "The node was shut down.")
    fresh(run)
    assert (run.status, run.attempt, run.checkpoint_step) == ("queued", 1, 50)
    assert (run.node, run.slot, run.lease_token) == (None, None, None)


def test_a_released_run_that_was_asked_to_stop_is_cancelled(run, lease):
    change(run, cancel_requested_at=timezone.now())
    lifecycle.release_run(lease, "The node was shut down.")
    assert fresh(run).status == "cancelled"


def test_crashes_count_as_attempts(run, lease):
    change(run, attempt=4, max_attempts=5)
    assert lifecycle.note_crash(lease, "The process was killed.") is True
    assert fresh(run).attempt == 5
    assert lifecycle.note_crash(lease, "The process was killed.") is False
    assert fresh(run).attempt == 5


# --- the sweep ---------------------------------------------------------------------------------------------------


def test_a_lost_run_goes_on_with_one_attempt_less(run, lease):
    change(run, attempt=1, checkpoint_step=20, gpu_seconds=7.0)
    let_lease_run_out(run)
    assert lifecycle.sweep() == 1
    fresh(run)
    # The node is live and its slot free again, so the sweep hands the run out at once.
    assert (run.status, run.attempt, run.checkpoint_step, run.gpu_seconds) == ("assigned", 2, 20, 7.0)
    assert run.lease_token != lease.token
    assert lifecycle.sweep() == 0


def test_a_run_lost_too_often_fails_with_a_sentence(run, lease):
    change(run, attempt=5, max_attempts=5)
    let_lease_run_out(run)
    lifecycle.sweep()
    fresh(run)
    assert (run.status, run.error_code) == ("failed", "interrupted")
    assert "interrupted 5 times" in run.error_message


def test_a_lost_start_message_costs_no_attempt(run, assigned):
    let_lease_run_out(run)
    assert lifecycle.sweep() == 1
    assert (fresh(run).status, run.attempt) == ("assigned", 1)
    assert run.lease_token != assigned.token


def test_a_lost_run_that_was_asked_to_stop_does_not_start_again(run, lease):
    change(run, cancel_requested_at=timezone.now())
    let_lease_run_out(run)
    lifecycle.sweep()
    assert fresh(run).status == "cancelled"


def test_live_runs_are_left_alone(run, lease):
    assert lifecycle.sweep() == 0
    assert fresh(run).status == "running"


def test_nobody_is_lost_while_the_database_was_away(run, lease, monkeypatch, settings):
    monkeypatch.undo()
    settings.LEASE_SECONDS = 10**9  # the server started within this time
    let_lease_run_out(run)
    assert lifecycle.sweep() == 0
    settings.LEASE_SECONDS = 0
    assert lifecycle.sweep() == 1


@pytest.mark.django_db(transaction=True)
def test_many_sweeps_at_once_take_each_run_once(team, actor, base_model, node):
    version = make_version(team)
    runs = [submit(team, actor, version, base_model) for _ in range(3)]
    for slot, run in enumerate(runs):
        put_to_work(run, None, slot=slot)
        let_lease_run_out(run)
    counts = []

    def sweep():
        try:
            counts.append(lifecycle.sweep())
        finally:
            connection.close()

    threads = [threading.Thread(target=sweep) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts) == 3
    with all_teams("test"):
        assert RunEvent.unscoped.count() == 3


def test_a_killed_worker_is_noticed_within_a_minute(run, lease, settings):
    """The clock is moved, not waited for: by as much as the lease's end comes nearer."""
    assert lifecycle.renew_lease(lease) is False  # nobody asked it to stop
    until_noticed_s = settings.LEASE_SECONDS + MAINTAIN_EVERY_S + TICK_S
    assert until_noticed_s <= 60
    let_pass(run, settings.LEASE_SECONDS - 2)
    assert lifecycle.sweep() == 0
    let_pass(run, 2.5)
    assert lifecycle.sweep() == 1
    assert (fresh(run).status, run.attempt) == ("assigned", 2)
    assert any("was lost" in message for _kind, message in lines(run))


def let_pass(run, seconds: float) -> None:
    change(run, lease_until=fresh(run).lease_until - timedelta(seconds=seconds))

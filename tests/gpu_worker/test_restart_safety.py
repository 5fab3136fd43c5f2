"""Whatever is killed in the middle of a run, it ends once, well, and with nothing lost. Real processes throughout."""

import os
import signal
import time
from contextlib import contextmanager

import psycopg
import pytest
from django.db import connection

from experiments import lifecycle
from experiments.models import Adapter, EvaluatedRow, Evaluation
from portal.process_table import process_entry
from portal.rls import all_teams
from tests.experiments.runs import change, fresh, make_version, submit
from tests.gpu_worker.workshop import LEASE_SECONDS, Workshop

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def run(team, actor, base_model, node, settings):
    settings.LEASE_SECONDS = LEASE_SECONDS
    return submit(team, actor, make_version(team), base_model)


@pytest.fixture
def workshop(run):
    made = Workshop(run)
    made.keep_node_alive()
    yield made
    made.close()


def assert_ended_well(workshop, *, steps):
    run = fresh(workshop.run)
    assert run.status == "succeeded", (run.error_message, workshop.log.read_text()[-3000:])
    assert workshop.steps() == list(range(1, steps + 1))
    assert not any("OVERLAP" in start for start in workshop.starts())
    assert workshop.starts().count("evaluation") == 1
    with all_teams("test"):
        assert Adapter.unscoped.filter(run=run).count() == 1
        evaluation = Evaluation.unscoped.get(run=run)
        assert EvaluatedRow.unscoped.filter(evaluation=evaluation).count() == evaluation.rows == 4
    assert run.gpu_seconds > 0
    assert sorted(path.name for path in run.folder.iterdir() if path.is_dir()) == ["evaluation"]


def test_an_undisturbed_run_ends_well(workshop):
    supervisor = workshop.start()
    assert supervisor.wait(60) == 0
    assert_ended_well(workshop, steps=20)
    assert workshop.starts() == ["0", "evaluation"]
    assert fresh(workshop.run).attempt == 1


def test_a_killed_supervisor_is_replaced_and_the_run_goes_on(workshop):
    workshop.behave(steps=120, step_s=0.05, checkpoint_every=10)
    supervisor = workshop.start()
    workshop.wait_for_step(15)
    orphan = workshop.trainer_pid()
    supervisor.kill()
    supervisor.wait()
    workshop.wait_for(lambda: process_entry(orphan) is None, "the orphan's end")
    lease = workshop.recover()
    assert fresh(workshop.run).attempt == 2
    assert workshop.start(lease).wait(60) == 0
    assert_ended_well(workshop, steps=120)
    first, second, _ = workshop.starts()
    assert first == "0"
    assert int(second) >= 15  # the orphan saved what it had before it went


def test_a_killed_trainer_is_started_again_from_its_checkpoint(workshop):
    workshop.behave(steps=60, step_s=0.05, checkpoint_every=10)
    supervisor = workshop.start()
    workshop.wait_for_step(25)
    os.killpg(workshop.trainer_pid(), signal.SIGKILL)
    assert supervisor.wait(60) == 0
    assert_ended_well(workshop, steps=60)
    first, second, _ = workshop.starts()
    assert first == "0"
    assert int(second) in (20, 30, 40)
    assert fresh(workshop.run).attempt == 2
    assert any("was killed (SIGKILL)" in message for message in workshop.messages())


def test_both_killed_at_once(workshop):
    workshop.behave(steps=60, step_s=0.05, checkpoint_every=10)
    supervisor = workshop.start()
    workshop.wait_for_step(25)
    supervisor.kill()
    os.killpg(workshop.trainer_pid(), signal.SIGKILL)
    supervisor.wait()
    assert workshop.start(workshop.recover()).wait(60) == 0
    assert_ended_well(workshop, steps=60)


def test_a_supervisor_killed_in_the_evaluation_costs_no_second_training(workshop):
    workshop.behave(steps=10, evaluation_s=1.0)
    supervisor = workshop.start()
    workshop.wait_for(lambda: fresh(workshop.run).phase == "evaluating", "the evaluation")
    supervisor.kill()
    supervisor.wait()
    lease = workshop.recover()
    workshop.behave(steps=10)
    assert workshop.start(lease).wait(60) == 0
    assert workshop.starts()[0] == "0"
    assert set(workshop.starts()[1:]) == {"evaluation"}
    assert fresh(workshop.run).status == "succeeded"
    assert workshop.steps() == list(range(1, 11))


def test_a_node_that_shuts_down_gives_the_run_back_for_its_next_start(workshop):
    workshop.behave(steps=80, step_s=0.05, checkpoint_every=1000)
    supervisor = workshop.start()
    workshop.wait_for_step(10)
    supervisor.terminate()
    assert supervisor.wait(30) == 0
    assert fresh(workshop.run).status == "queued"
    assert workshop.run.attempt == 0
    assert workshop.run.checkpoint_step >= 10
    assert not list((workshop.log.parent / "run" / "supervisors").iterdir())
    assert workshop.start().wait(60) == 0
    assert_ended_well(workshop, steps=80)
    assert workshop.run.attempt == 1


def test_a_message_that_comes_twice_starts_one_training(workshop):
    workshop.behave(steps=20, step_s=0.1)
    lease = workshop.dispatch()
    supervisors = [workshop.start(lease) for _ in range(3)]
    assert [supervisor.wait(60) for supervisor in supervisors] == [0, 0, 0]
    assert_ended_well(workshop, steps=20)
    assert workshop.starts() == ["0", "evaluation"]


def test_a_lost_message_is_sent_again_without_costing_an_attempt(workshop):
    lost = workshop.dispatch()
    lease = workshop.recover()
    assert workshop.start(lease).wait(60) == 0
    assert workshop.start(lost).wait(60) == 0  # it comes late after all
    assert_ended_well(workshop, steps=20)
    assert workshop.run.attempt == 1


def test_a_supervisor_whose_run_was_taken_away_ends_its_child_and_writes_nothing(workshop):
    workshop.behave(steps=2000, step_s=0.05)
    supervisor = workshop.start()
    workshop.wait_for_step(5)
    child = workshop.trainer_pid()
    change(workshop.run, status="queued", lease_token=None, lease_until=None, node=None, slot=None)
    before = len(workshop.steps())
    assert supervisor.wait(20) == 0
    assert process_entry(child) is None
    assert len(workshop.steps()) == before
    assert fresh(workshop.run).status == "queued"


@contextmanager
def database_away():
    """Throw everybody else out of the database and let nobody in."""
    known = connection.settings_dict
    address = {"user": known["USER"], "password": known["PASSWORD"], "host": known["HOST"], "port": known["PORT"]}
    with psycopg.connect(dbname="postgres", autocommit=True, **address) as outside:
        outside.execute(f'ALTER DATABASE "{known["NAME"]}" ALLOW_CONNECTIONS false')
        try:
            outside.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [known["NAME"]]
            )
            connection.close()
            yield
        finally:
            outside.execute(f'ALTER DATABASE "{known["NAME"]}" ALLOW_CONNECTIONS true')


def test_an_absence_of_the_database_does_not_disturb_the_training(workshop):
    workshop.behave(steps=100, step_s=0.1, checkpoint_every=1000)
    supervisor = workshop.start()
    workshop.wait_for_step(10)
    with database_away():
        time.sleep(3 * LEASE_SECONDS)
    assert supervisor.wait(60) == 0
    assert_ended_well(workshop, steps=100)
    assert workshop.starts() == ["0", "evaluation"]
    assert fresh(workshop.run).attempt == 1
    assert "the database is away" in workshop.log.read_text()


def test_a_trainer_that_always_dies_is_given_up(workshop):
    workshop.behave(steps=20, checkpoint_every=1000, die_at=3, die_always=True)
    change(workshop.run, max_attempts=3)
    assert workshop.start().wait(60) == 0
    assert fresh(workshop.run).status == "failed"
    assert workshop.run.error_code == "killed"
    assert "memory ran out" in workshop.run.error_message
    assert len(workshop.starts()) == 3


def test_a_supervisor_that_always_dies_is_given_up(workshop):
    workshop.behave(steps=2000, step_s=0.05)
    change(workshop.run, max_attempts=2)
    for _ in range(2):
        supervisor = workshop.start() if not workshop.processes else workshop.start(workshop.recover())
        workshop.wait_for(lambda: fresh(workshop.run).status == "running", "a start")
        supervisor.kill()
        supervisor.wait()
    workshop.wait_for(lambda: bool(lifecycle.sweep()), "the sweep")
    assert fresh(workshop.run).status == "failed"
    assert workshop.run.error_code == "interrupted"

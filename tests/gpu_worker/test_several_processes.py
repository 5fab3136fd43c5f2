"""A run on two slots through the real supervisor: two processes that are one training, from its start to every end."""

import os
import signal
import time

import pytest

from experiments import services
from experiments.hyperparameters import Hyperparameters
from experiments.models import Adapter, MetricPoint
from gpu_worker import private_network
from portal.models import Node
from portal.process_table import group_is_alive, living_processes
from portal.rls import all_teams, team_scope
from tests.experiments.runs import fresh, make_version, submit
from tests.gpu_worker.workshop import LEASE_SECONDS, REAL, Workshop

pytestmark = [
    pytest.mark.slow,
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(not private_network.is_offered(), reason="this kernel gives processes no network of their own"),
]
CHOSEN = {
    "epochs": 100, "batch_size": 4, "micro_batch_size": 4, "lora_r": 4, "max_length": 128, "evaluation_rows": 4,
    "evaluations_per_epoch": 0, "max_new_tokens": 8, "compile_kernels": False, "sample_rows": 0,
}  # fmt: skip


@pytest.fixture
def open_workshop(team, actor, base_model, node, settings):
    settings.LEASE_SECONDS = LEASE_SECONDS
    Node.objects.filter(pk=node.pk).update(slots=2, joins_slots=True)
    version, opened = make_version(team), []

    def open_workshop(**chosen):
        run = submit(team, actor, version, base_model, hyperparameters=Hyperparameters(**CHOSEN, **chosen))
        opened.append(Workshop(run, REAL))
        opened[-1].keep_node_alive()
        return opened[-1]

    yield open_workshop
    for workshop in opened:
        workshop.close()


def losses(run):
    with all_teams("test"):
        points = MetricPoint.unscoped.filter(run=run).order_by("step").values_list("step", "values")
        return {step: values["loss"] for step, values in points if "loss" in values}


def ranks(workshop):
    """The process ids of the ranks; the one that started them is their group's first."""
    return sorted(entry.pid for entry in living_processes() if entry.parent == workshop.trainer_pid())


def test_two_processes_have_the_loss_curve_of_one(open_workshop):
    curves = []
    for gpus in (1, 2):
        workshop = open_workshop(gpus=gpus, max_steps=6)
        assert workshop.start().wait(180) == 0
        run = fresh(workshop.run)
        assert run.status == "succeeded", (run.error_message, workshop.log.read_text()[-3000:])
        assert run.facts["started"]["processes"] == gpus
        curves.append(losses(run))
    assert len(curves[0]) == 6
    assert curves[1] == pytest.approx(curves[0], abs=1e-3)


def test_a_cancelled_run_leaves_no_process_and_its_adapter(open_workshop, actor):
    workshop = open_workshop(gpus=2, max_steps=5000)
    supervisor = workshop.start()
    workshop.wait_for_step(3)
    group = workshop.trainer_pid()
    assert len(ranks(workshop)) == 2
    assert (workshop.run.slot, workshop.run.more_slots) == (0, [1])
    with team_scope(workshop.run.team_id):
        services.cancel_run(run=workshop.run, actor=actor)
    assert supervisor.wait(60) == 0
    assert fresh(workshop.run).status == "cancelled"
    assert not group_is_alive(group)
    with all_teams("test"):
        assert Adapter.unscoped.get(run=workshop.run).step >= 3


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_costs_an_attempt_and_the_run_goes_on(open_workshop, victim):
    workshop = open_workshop(gpus=2, max_steps=60, checkpoint_every_steps=5)
    supervisor = workshop.start()
    workshop.wait_for(lambda: fresh(workshop.run).checkpoint_step >= 5, "a checkpoint", 120)
    os.kill(ranks(workshop)[victim], signal.SIGKILL)
    assert supervisor.wait(180) == 0
    run = fresh(workshop.run)
    assert (run.status, run.attempt) == ("succeeded", 2), (run.error_message, workshop.log.read_text()[-3000:])
    assert run.facts["started"]["resumed_from_step"] >= 5
    assert any("killed (SIGKILL)" in message for message in workshop.messages())
    assert max(losses(run)) == 60


def test_a_killed_supervisor_leaves_no_process_and_another_goes_on(open_workshop):
    workshop = open_workshop(gpus=2, max_steps=60, checkpoint_every_steps=5)
    supervisor = workshop.start()
    workshop.wait_for(lambda: fresh(workshop.run).checkpoint_step >= 5, "a checkpoint", 120)
    group = workshop.trainer_pid()
    supervisor.kill()
    supervisor.wait()
    deadline = time.monotonic() + 60
    while group_is_alive(group):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert workshop.start(workshop.recover()).wait(180) == 0
    assert fresh(workshop.run).status == "succeeded", workshop.run.error_message


def test_every_slots_time_is_charged(open_workshop):
    workshop = open_workshop(gpus=2, max_steps=10)
    assert workshop.start().wait(180) == 0
    run = fresh(workshop.run)
    assert run.gpu_seconds == pytest.approx(2 * run.duration.total_seconds(), rel=0.2)

"""Runs on several GPUs: all or nothing on one node, never waiting for ever, and each GPU's time counts."""

import time
import uuid
from datetime import timedelta

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone

from deployments import lifecycle as nodes
from experiments import estimates, lifecycle, placing, scheduling, services
from experiments.estimates import HeldSlot, WaitingRun
from experiments.hyperparameters import Hyperparameters
from experiments.models import Run
from experiments.scheduling import Waiting
from portal.errors import InvalidInput
from portal.models import Node
from portal.rls import all_teams
from tests.experiments.runs import change, fresh, make_version, put_to_work, submit

pytestmark = pytest.mark.django_db


@pytest.fixture
def version(team):
    return make_version(team)


@pytest.fixture
def order(team, actor, version, base_model):
    """Submit a run on so many GPUs; later ones are younger."""
    minutes = iter(range(60, 0, -1))

    def order(gpus=1, of=None):
        its_version = make_version(of) if of else version
        run = submit(of or team, actor, its_version, base_model, hyperparameters=Hyperparameters(gpus=gpus))
        change(run, queued_at=timezone.now() - timedelta(minutes=next(minutes)))
        return run

    return order


def alive():
    """A heartbeat that no busy machine outlives."""
    return timezone.now() + timedelta(hours=1)


def set_up(node, **facts):
    Node.objects.filter(pk=node.pk).update(**{"joins_slots": True, "heartbeat_at": alive(), **facts})
    node.refresh_from_db()


def let_teams_run(*teams, runs=20):
    for each in teams:
        each.max_concurrent_runs = runs
        each.save()


def slots_of(run):
    fresh(run)
    return [run.slot, *run.more_slots] if run.is_active else []


def end(run):
    change(run, status="succeeded", ended_at=timezone.now(), lease_token=None)


def test_a_run_gets_as_many_slots_as_it_asks_for(order, node):
    set_up(node, slots=4)
    large, small = order(2), order()
    assert scheduling.dispatch() == 2
    assert (slots_of(large), slots_of(small)) == ([0, 1], [2])
    assert (large.gpus, large.hyperparameters["gpus"]) == (2, 2)


def test_slots_need_not_stand_side_by_side(order, node, team):
    let_teams_run(team)
    set_up(node, slots=4)
    singles = [order() for _ in range(4)]
    scheduling.dispatch()
    end(singles[0])
    end(singles[2])
    large = order(2)
    scheduling.dispatch()
    assert slots_of(large) == [0, 2]


def test_each_slot_of_a_run_has_a_gpu_of_its_own(order, node):
    """Four slots on two GPUs: slots 0 and 2 share one."""
    set_up(node, slots=4, gpus=2)
    assert node.most_gpus_of_a_run == 2
    single, large = order(), order(2)
    scheduling.dispatch()
    assert slots_of(single) == [0]
    assert sorted(slot % 2 for slot in slots_of(large)) == [0, 1]


def test_no_node_gives_a_run_a_part_of_what_it_needs(order, node, team):
    let_teams_run(team)
    set_up(node, slots=2)
    second = Node.objects.create(name="second", slots=2, joins_slots=True, heartbeat_at=alive())
    Node.objects.create(name="third", slots=4, joins_slots=False, heartbeat_at=alive())
    put_to_work(order(), node)
    put_to_work(order(), second)
    large = order(2)
    scheduling.dispatch()
    assert fresh(large).status == "queued"
    assert large.turn_came_at is not None


def test_small_runs_of_others_do_not_keep_a_large_one_waiting(order, node, team, other_team):
    """One small run of another team ends and one begins, again and again; there is never a moment with two free."""
    let_teams_run(team, other_team)
    set_up(node, slots=2)
    working = [order(of=other_team) for _ in range(2)]
    scheduling.dispatch()
    large = order(2)
    change(large, queued_at=timezone.now() + timedelta(minutes=5))  # the youngest of all
    for _ in range(6):
        order(of=other_team)
    end(working[0])
    assert scheduling.dispatch() == 0  # the free slot is kept: it is the large one's turn
    assert fresh(large).turn_came_at is not None
    order(of=other_team)
    end(working[1])
    assert scheduling.dispatch() == 1
    assert slots_of(large) == [0, 1]
    assert large.turn_came_at is None


def test_a_turn_that_has_come_stays_whoever_else_comes(order, node, team, other_team):
    """A team that has used nothing goes first by its share; but not before a run for which a node is kept."""
    let_teams_run(team, other_team)
    set_up(node, slots=2)
    busy, large = order(), order(2)
    change(busy, gpu_seconds=1_000.0)
    put_to_work(busy, node)
    scheduling.dispatch()
    assert fresh(large).turn_came_at is not None
    newcomer = order(of=other_team)
    assert scheduling.dispatch() == 0
    end(busy)
    scheduling.dispatch()
    assert (slots_of(large), fresh(newcomer).status) == ([0, 1], "queued")


def test_others_start_on_the_nodes_that_are_not_kept(order, node, team):
    let_teams_run(team)
    set_up(node, slots=2)
    Node.objects.create(name="small", slots=1, heartbeat_at=alive())
    put_to_work(order(), node)
    large, small = order(2), order()
    assert scheduling.dispatch() == 1
    assert fresh(large).status == "queued"
    assert fresh(small).node.name == "small"


def test_a_teams_own_small_runs_do_not_use_its_limit_up(order, node, team):
    """The team may have two runs; the large one counts as if it worked, or it would never be within the limit."""
    let_teams_run(team, runs=2)
    set_up(node, slots=2)
    Node.objects.create(name="small", slots=4, heartbeat_at=alive())
    put_to_work(order(), node)
    large, small = order(2), order()
    assert scheduling.dispatch() == 0
    assert (fresh(large).status, fresh(small).status) == ("queued", "queued")


def test_a_run_too_large_for_the_nodes_that_are_there_holds_nobody_up(order, node, team):
    let_teams_run(team)
    set_up(node, slots=4)
    large, small = order(4), order()
    set_up(node, slots=2)
    assert scheduling.dispatch() == 1
    assert fresh(small).is_active
    [place] = scheduling.queue_places(team)
    assert (place.run, place.reason) == (large, Waiting.NO_NODE_SO_LARGE)
    assert "4 GPUs" in place.sentence


def test_the_database_gives_no_slot_to_two_runs(order, node):
    set_up(node, slots=4)
    large, other = order(2), order()
    scheduling.dispatch()
    assert slots_of(large) == [0, 1]
    with pytest.raises(IntegrityError, match="one_active_run_for_each_slot"), transaction.atomic():
        change(other, slot=1)
    with pytest.raises(IntegrityError, match="one_active_run_for_each_slot"), transaction.atomic():
        change(other, slot=3, more_slots=[1])
    change(other, slot=3, more_slots=[2])


@pytest.mark.parametrize(
    ("facts", "most", "sentence"),
    [
        ({"slots": 4, "gpus": 4}, 4, "more than 4 GPUs"),
        ({"slots": 2, "gpus": 4}, 2, "more than 2 GPUs"),
        ({"slots": 4, "gpus": 2}, 2, "more than 2 GPUs"),
        ({"slots": 3, "gpus": 0}, 3, "more than 3 GPUs"),
        ({"slots": 4, "gpus": 4, "joins_slots": False}, 1, "No node lets one run have several"),
        ({"slots": 1}, 1, "No node lets one run have several"),
    ],
)
def test_what_no_node_has_is_refused_with_a_sentence(order, node, facts, most, sentence):
    set_up(node, **facts)
    order(most)
    with pytest.raises(InvalidInput, match=sentence) as refusal:
        order(most + 1)
    assert (refusal.value.param, refusal.value.code) == ("gpus", "bad_settings")


def test_nodes_that_are_off_for_a_while_count(order, node):
    set_up(node, slots=2, heartbeat_at=None)
    assert order(2).gpus == 2
    Node.objects.all().delete()
    assert order(1).gpus == 1
    with pytest.raises(InvalidInput, match="No node lets one run"):
        placing.require_gpus(2)


def test_every_gpu_of_a_run_is_charged(order, node, settings, team):
    settings.LEASE_SECONDS = 60
    set_up(node, slots=3)
    run = order(3)
    lease = put_to_work(run, node)
    change(run, more_slots=[1, 2], gpu_seconds=0.0, lease_until=timezone.now() + timedelta(seconds=50))
    before = time.monotonic()
    lifecycle.renew_lease(lease)
    assert 29.9 < fresh(run).gpu_seconds < 31 + 3 * (time.monotonic() - before)  # ten seconds of three


def test_shares_count_slots_and_not_runs(order, node, team, other_team):
    let_teams_run(team, other_team)
    set_up(node, slots=4)
    put_to_work(order(2), node)
    with all_teams("test"):
        Run.unscoped.filter(status="running").update(more_slots=[1])
    put_to_work(order(of=other_team), node, slot=2)
    mine, theirs = order(), order(of=other_team)
    assert scheduling.dispatch() == 1
    assert (fresh(mine).status, fresh(theirs).status) == ("queued", "assigned")


def test_the_queue_tells_what_a_large_run_waits_for(order, node, team):
    let_teams_run(team)
    set_up(node, slots=2)
    put_to_work(order(), node)
    large, small = order(2), order()

    def told():
        return [(place.run, place.reason) for place in scheduling.queue_places(team)]

    assert told() == [(large, Waiting.GPUS_BUSY), (small, Waiting.SLOTS_BUSY)]
    assert "needs 2 GPUs of one node at once" in scheduling.waiting_place(large).sentence
    scheduling.dispatch()
    assert "a node is kept for it" in scheduling.waiting_place(large).sentence


def test_expected_starts_wait_for_all_slots():
    team = uuid.uuid4()
    large, small = WaitingRun(uuid.uuid4(), team, 9, 60.0, 2), WaitingRun(uuid.uuid4(), team, 9, 30.0)
    held = [HeldSlot(team, 10.0), HeldSlot(team, 50.0, 2)]
    assert estimates.expected_starts([large, small], held, 0) == {large.id: 50.0, small.id: 50.0}
    assert estimates.expected_starts([large], [], 2) == {large.id: 0.0}


def test_several_gpus_halve_the_time_and_not_the_gpu_time(version):
    alone, together = Hyperparameters(), Hyperparameters(gpus=2)
    assert estimates.seconds_for(together, 100, 1.0) == estimates.seconds_for(alone, 100, 1.0) / 2


def test_a_lost_or_paused_run_lets_all_its_slots_go(order, node):
    set_up(node, slots=2)
    run = order(2)
    scheduling.dispatch()
    change(run, lease_until=timezone.now() - timedelta(seconds=1))
    lifecycle.sweep()
    scheduling.dispatch()
    assert slots_of(run) == [0, 1]


def test_a_node_tells_what_it_has(node):
    told = {"address": "127.0.0.1", "device": "2 × GPU", "memory_bytes": 1}
    known = nodes.register_node(name="local", slots=2, gpus=2, joins_slots=True, **told)
    assert known.most_gpus_of_a_run == 2
    assert nodes.register_node(name="local", slots=2, gpus=2, **told).most_gpus_of_a_run == 1


def test_a_copy_is_refused_when_the_nodes_have_become_smaller(order, node, actor):
    set_up(node, slots=2)
    run = order(2)
    set_up(node, slots=1)
    with all_teams("test"), pytest.raises(InvalidInput, match="No node lets one run"):
        services.rerun(run=run, actor=actor)

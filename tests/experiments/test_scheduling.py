"""Who gets the next slot: fair between teams, within limits, on live nodes only, and never twice."""

import random
import threading
from collections import Counter
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from experiments import scheduling
from experiments.models import Run
from experiments.scheduling import Waiting
from portal.models import Node
from portal.rls import all_teams
from tests.experiments.runs import change, fresh, make_version, put_to_work, queued_tasks, submit

pytestmark = pytest.mark.django_db


@pytest.fixture
def submit_for(actor, base_model):
    """Submit `count` runs for a team; the names tell which is which."""

    def submit_some(team, count, **choice):
        version = make_version(team)
        runs = [submit(team, actor, version, base_model, **choice) for _ in range(count)]
        change(runs[0])
        for number, run in enumerate(runs):
            change(run, queued_at=timezone.now() - timedelta(minutes=60 - number))
        return runs

    return submit_some


def end(run, *, gpu_seconds, ago=timedelta(0)):
    change(run, status="succeeded", gpu_seconds=gpu_seconds, ended_at=timezone.now() - ago, lease_token=None)


def active():
    with all_teams("test"):
        return list(Run.unscoped.filter(status="assigned").select_related("team").order_by("lease_until"))


def start_order(rounds):
    """Dispatch on one slot again and again, each run taking 100 GPU seconds; return the teams' names in order."""
    order = []
    for _ in range(rounds):
        scheduling.dispatch()
        [run] = active()
        order.append(run.team.name)
        end(run, gpu_seconds=100)
    return order


def test_a_run_gets_node_slot_lease_and_a_message_to_its_node(
    team, node, submit_for, django_capture_on_commit_callbacks
):
    [run] = submit_for(team, 1)
    with django_capture_on_commit_callbacks(execute=True):
        assert scheduling.dispatch() == 1
    fresh(run)
    assert (run.status, run.node, run.slot, run.attempt) == ("assigned", node, 0, 1)
    assert run.lease_until > timezone.now()
    assert queued_tasks() == [("gpu-local", "gpu_worker.tasks.start_run", (str(run.pk), str(run.lease_token)))]


def test_teams_take_turns_however_many_runs_one_has_queued(team, other_team, node, submit_for):
    submit_for(team, 6)
    submit_for(other_team, 3)
    names = start_order(6)
    assert names == ["Service Desk", "Finance"] * 3


def test_a_single_run_starts_next_however_many_another_team_has_queued(team, other_team, node, submit_for):
    submit_for(team, 50)
    scheduling.dispatch()
    submit_for(other_team, 1)
    [running] = active()
    end(running, gpu_seconds=100)
    assert start_order(2) == ["Finance", "Service Desk"]


@pytest.mark.parametrize("slots", [1, 3])
def test_two_teams_with_ten_runs_each_get_equal_gpu_time(team, other_team, node, submit_for, slots):
    """Lengths differ from run to run; from the fifth run on, both have had the same GPU time within 10 %."""
    Node.objects.filter(pk=node.pk).update(slots=slots)
    for each in (team, other_team):
        each.max_concurrent_runs = 10
        each.save()
        submit_for(each, 10)
    lengths, used = random.Random(7), Counter()
    while started := (scheduling.dispatch(), active())[1]:
        for run in started:
            seconds = lengths.uniform(90, 110)
            end(run, gpu_seconds=seconds)
            used[run.team.name] += seconds
        if sum(used.values()) > 1000 and len(started) % 2 == 0:
            assert abs(used["Finance"] - used["Service Desk"]) < 0.1 * max(used.values())
    assert abs(used["Finance"] - used["Service Desk"]) < 0.1 * max(used.values())


def test_with_several_slots_each_team_gets_its_share_at_once(team, other_team, node, submit_for):
    Node.objects.filter(pk=node.pk).update(slots=4)
    submit_for(team, 6)
    submit_for(other_team, 2)
    assert scheduling.dispatch() == 4
    names = [run.team.name for run in active()]
    assert sorted(names) == ["Finance"] * 2 + ["Service Desk"] * 2
    assert sorted(run.slot for run in active()) == [0, 1, 2, 3]


def test_a_team_of_double_weight_gets_twice_as_much(team, other_team, node, submit_for):
    team.weight = 2
    team.save()
    submit_for(team, 8)
    submit_for(other_team, 8)
    assert start_order(9).count("Service Desk") == 6


def test_old_use_is_forgotten(team, other_team, node, submit_for):
    [old, *_] = submit_for(team, 2)
    [young, *_] = submit_for(other_team, 2)
    end(old, gpu_seconds=5_000, ago=timedelta(days=5))
    end(young, gpu_seconds=300)
    assert start_order(1) == ["Service Desk"]


def test_a_teams_limit_holds_while_slots_are_free(team, other_team, node, submit_for):
    Node.objects.filter(pk=node.pk).update(slots=8)
    submit_for(team, 5)
    submit_for(other_team, 1)
    assert scheduling.dispatch() == 3
    team.max_concurrent_runs = 3
    team.save()
    assert scheduling.dispatch() == 1


def test_within_a_team_priority_then_age_decides(team, node, submit_for):
    runs = submit_for(team, 3)
    change(runs[2], priority=1)
    scheduling.dispatch()
    assert fresh(runs[2]).status == "assigned"
    end(runs[2], gpu_seconds=1)
    scheduling.dispatch()
    assert fresh(runs[0]).status == "assigned"


def test_an_interrupted_run_goes_on_before_others_begin(team, other_team, node, submit_for):
    [_, interrupted, _] = submit_for(team, 3)
    submit_for(other_team, 2)
    change(interrupted, started_at=timezone.now(), gpu_seconds=5_000)
    assert scheduling.queue_places(team)[0].run == interrupted
    scheduling.dispatch()
    assert fresh(interrupted).status == "assigned"
    end(interrupted, gpu_seconds=5_000)
    assert start_order(1) == ["Finance"]


def test_nothing_starts_without_a_live_node(team, submit_for):
    Node.objects.create(name="gone", heartbeat_at=timezone.now() - timedelta(hours=1))
    Node.objects.create(name="new", heartbeat_at=None)
    submit_for(team, 1)
    assert scheduling.dispatch() == 0


def test_runs_spread_over_nodes(team, node, submit_for):
    Node.objects.create(name="second", slots=1, heartbeat_at=timezone.now())
    submit_for(team, 2)
    assert scheduling.dispatch() == 2
    assert {run.node.name for run in active()} == {"local", "second"}


@pytest.mark.django_db(transaction=True)
def test_many_dispatchers_at_once_give_each_slot_and_run_away_once(team, node, submit_for):
    Node.objects.filter(pk=node.pk).update(slots=6)
    team.max_concurrent_runs = 20
    team.save()
    submit_for(team, 8)
    given = []

    def one():
        try:
            given.append(scheduling.dispatch())
        finally:
            connection.close()

    threads = [threading.Thread(target=one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(given) == 6
    assert sorted(run.slot for run in active()) == list(range(6))
    assert len(queued_tasks()) - sum(name == "experiments.tasks.dispatch" for _, name, _ in queued_tasks()) == 6


# --- what people are told ----------------------------------------------------------------------------------------


def places(team):
    return [(place.place, place.reason) for place in scheduling.queue_places(team)]


def test_places_say_that_no_node_is_online(team, submit_for):
    runs = submit_for(team, 2)
    assert places(team) == [(1, Waiting.NO_LIVE_NODE), (2, Waiting.NO_LIVE_NODE)]
    assert "No GPU node is online" in scheduling.waiting_place(runs[0]).sentence


def test_places_are_those_at_which_runs_really_start(team, other_team, node, submit_for):
    for each in (team, other_team):
        each.max_concurrent_runs = 10
        each.save()
    [busy] = submit_for(team, 1)
    put_to_work(busy, node)
    submit_for(team, 3)
    submit_for(other_team, 3)
    promised = {place.run.pk: place.place for each in (team, other_team) for place in scheduling.queue_places(each)}
    assert sorted(promised.values()) == [1, 2, 3, 4, 5, 6]
    Node.objects.filter(pk=node.pk).update(slots=7)
    scheduling.dispatch()
    started = [run.pk for run in active()]
    assert [promised[pk] for pk in started] == [1, 2, 3, 4, 5, 6]


def test_places_name_busy_slots_and_the_teams_limit(team, other_team, node, submit_for):
    [busy] = submit_for(other_team, 1)
    put_to_work(busy, node)
    team.max_concurrent_runs = 1
    team.save()
    submit_for(team, 2)
    submit_for(other_team, 1)
    assert places(team) == [(1, Waiting.SLOTS_BUSY), (3, Waiting.TEAM_LIMIT)]
    assert places(other_team) == [(2, Waiting.SLOTS_BUSY)]
    sentences = [place.sentence for place in scheduling.queue_places(team)]
    assert "Place 1" in sentences[0]
    assert "one training at a time" in sentences[1]


def test_a_run_that_does_not_wait_has_no_reason(team, node, submit_for):
    [run] = submit_for(team, 1)
    assert scheduling.waiting_place(run).sentence == "It starts in a moment."
    put_to_work(run, node)
    assert scheduling.waiting_place(run) is None

"""When waiting runs will probably start: the simulation alone, then with real rows."""

import uuid
from datetime import timedelta

import pytest
from django.utils import timezone

from experiments import estimates, scheduling
from experiments.estimates import HeldSlot, WaitingRun
from portal.models import Node
from portal.rls import all_teams
from tests.experiments.runs import change, make_version, put_to_work, submit

A, B = uuid.uuid4(), uuid.uuid4()


def waiting(team, seconds, limit=10):
    return WaitingRun(uuid.uuid4(), team, limit, seconds)


def starts(queue, held=(), free_slots=0):
    found = estimates.expected_starts(queue, held, free_slots)
    return [found.get(run.id) for run in queue]


def test_runs_follow_each_other_on_one_slot():
    assert starts([waiting(A, 60), waiting(B, 30), waiting(A, 10)], [HeldSlot(A, 5)]) == [5, 65, 95]


def test_slots_are_filled_side_by_side():
    assert starts([waiting(A, 60), waiting(B, 30), waiting(A, 10)], [HeldSlot(B, 100)], 1) == [0, 60, 90]


def test_a_team_at_its_limit_lets_others_pass():
    queue = [waiting(A, 60, 1), waiting(B, 30), waiting(A, 10, 1)]
    assert starts(queue, [HeldSlot(A, 50)], 1) == [50, 0, 110]


def test_nothing_is_promised_behind_a_run_of_unknown_length():
    assert starts([waiting(A, None), waiting(B, 30)], (), 1) == [0, None]
    assert starts([waiting(A, 60)], [HeldSlot(A, None)]) == [None]
    assert starts([waiting(A, 60)]) == [None]


@pytest.mark.django_db
def test_the_pace_of_earlier_runs_tells_how_long_a_run_takes(team, actor, base_model, node):
    version = make_version(team, train=12)
    done = submit(team, actor, version, base_model)
    steps, batch = 6, done.hyperparameters["batch_size"]
    change(done, status="succeeded", total_steps=steps, gpu_seconds=steps * batch * 2.0, ended_at=timezone.now())
    run = submit(team, actor, version, base_model)
    with all_teams("test"):
        pace = estimates.seconds_per_row_visit()
        assert pace == {base_model.pk: pytest.approx(2.0)}
        planned = round(run.hyperparameters["epochs"] * 12 / batch) * batch
        assert estimates.expected_seconds(run, pace) == pytest.approx(2.0 * planned)
        run.hyperparameters = {**run.hyperparameters, "max_minutes": 0.5}
        assert estimates.expected_seconds(run, pace) == 30
        run.hyperparameters = {"no longer": "known"}
        assert estimates.expected_seconds(run, pace) is None
        assert estimates.expected_seconds(run, {}) is None


@pytest.mark.django_db
def test_the_queue_tells_both_teams_when_their_runs_start(team, other_team, actor, base_model, node):
    Node.objects.filter(pk=node.pk).update(slots=1)
    version, others = make_version(team), make_version(other_team)
    done = submit(team, actor, version, base_model)
    change(done, status="succeeded", total_steps=10, gpu_seconds=400.0, ended_at=timezone.now() - timedelta(hours=1))
    busy = submit(other_team, actor, others, base_model)
    put_to_work(busy, node)
    change(busy, eta_s=90.0, total_steps=10)
    first, second = submit(team, actor, version, base_model), submit(other_team, actor, others, base_model)
    [mine] = scheduling.queue_places(team)
    [theirs] = scheduling.queue_places(other_team)
    assert (mine.run, mine.place, mine.starts_in_s) == (first, 1, 90.0)
    assert (theirs.run, theirs.place) == (second, 2)
    assert theirs.starts_in_s > 90.0
    assert scheduling.waiting_place(busy) is None

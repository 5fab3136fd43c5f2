"""Limits of runs: how many may wait, and GPU time of the month, booked by the database on the day it was used."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from experiments import scheduling, services
from experiments.models import Run
from experiments.scheduling import Waiting
from portal.errors import QuotaExceeded
from portal.models import Node, Quota, Team, UsageDay
from portal.rls import all_teams, team_scope
from tests.experiments.runs import change, fresh, make_version, put_to_work, submit
from tests.processes import answers, processes, release


def limit(team, kind: Quota, value: int | None) -> None:
    with team_scope(team.pk):
        team.teamlimits.update_or_create(kind=kind, defaults={"value": value})


def booked(team) -> float:
    with all_teams("test"):
        return sum(UsageDay.unscoped.filter(team=team).values_list("gpu_seconds", flat=True))


def test_one_waiting_run_too_many_is_refused_and_leaves_nothing(team, actor, base_model, db):
    limit(team, Quota.QUEUED_RUNS, 2)
    version = make_version(team)
    first = submit(team, actor, version, base_model)
    submit(team, actor, version, base_model)
    with pytest.raises(QuotaExceeded) as refused:
        submit(team, actor, version, base_model)
    assert (refused.value.status, "2 runs of the team wait" in refused.value.message) == (429, True)
    with team_scope(team.pk):
        assert (team.runs.count(), team.experiments.count()) == (2, 2)
        services.cancel_run(run=first, actor=actor)
    submit(team, actor, version, base_model)


SUBMITTING = """
from portal.actors import Actor
from portal.errors import QuotaExceeded
from portal.models import BaseModel, Team, User
from portal.rls import team_scope
from datasets_app.models import DatasetVersion
from experiments import services
team, person = Team.objects.get(slug=sys.argv[1]), User.objects.get(email="alice@example.org")
print("ready", flush=True)
sys.stdin.readline()
for number in range(10):
    try:
        with team_scope(team.pk):
            services.start_experiment(
                team=team, actor=Actor(user=person), name=f"{os.getpid()} {number}",
                dataset_version=team.datasetversions.select_related("dataset", "team").get(),
                base_model=BaseModel.objects.get(),
            )
    except QuotaExceeded:
        print("refused")
    else:
        print("passed")
"""


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_processes_share_the_last_waiting_places_exactly(team, actor, base_model):
    limit(team, Quota.QUEUED_RUNS, 7)
    make_version(team)
    with processes(SUBMITTING, team.slug, count=3) as started:
        release(started)
        said = answers(started)
    assert (said.count("passed"), said.count("refused")) == (7, 23)
    with team_scope(team.pk):
        assert team.runs.count() == 7


def test_gpu_time_is_booked_as_it_grows(team, other_team, actor, base_model, db):
    run = submit(team, actor, make_version(team), base_model)
    change(run, gpu_seconds=10)
    change(run, gpu_seconds=25.5)
    change(run, gpu_seconds=25.5)
    assert (booked(team), booked(other_team)) == (25.5, 0)
    with all_teams("test"):
        day = UsageDay.unscoped.get(team=team)
    assert (day.day, day.model) == (timezone.now().date(), "")


def test_what_supervisors_charge_is_what_the_ledger_says(team, actor, base_model, node, db):
    from experiments import lifecycle

    run = submit(team, actor, make_version(team), base_model)
    lease = put_to_work(run, node)
    with all_teams("test"):
        Run.unscoped.filter(pk=run.pk).update(lease_until=timezone.now() - timedelta(seconds=100))
    lifecycle.renew_lease(lease)
    lifecycle.fail_run(lease, code="test", message="test")
    assert fresh(run).gpu_seconds > 100
    assert booked(team) == pytest.approx(fresh(run).gpu_seconds)


def test_a_team_without_gpu_time_waits_and_says_why_while_others_go_on(
    team, other_team, actor, charlie, base_model, node, db
):
    from portal.actors import Actor

    limit(team, Quota.GPU_SECONDS, 60)
    before = submit(team, actor, make_version(team), base_model)
    change(before, gpu_seconds=60, status="succeeded", ended_at=timezone.now())
    waiting = submit(team, actor, make_version(team), base_model)
    theirs = submit(other_team, Actor(user=charlie), make_version(other_team), base_model)
    change(waiting, queued_at=timezone.now() - timedelta(hours=5))
    assert scheduling.dispatch() == 1
    assert fresh(theirs).status == "assigned"
    [place] = scheduling.queue_places(team)
    assert (place.run, place.reason, place.starts_in_s) == (waiting, Waiting.GPU_TIME_SPENT, None)
    assert "GPU time of this month" in place.sentence
    change(theirs, status="succeeded", lease_token=None)
    assert scheduling.dispatch() == 0
    limit(team, Quota.GPU_SECONDS, 61)
    assert scheduling.dispatch() == 1
    assert fresh(waiting).status == "assigned"


def test_what_is_left_of_the_gpu_time_is_given_to_one_run(team, actor, base_model, node, db):
    Node.objects.filter(pk=node.pk).update(slots=3)
    Team.objects.filter(pk=team.pk).update(max_concurrent_runs=3)
    limit(team, Quota.GPU_SECONDS, 60)
    version = make_version(team)
    runs = [submit(team, actor, version, base_model) for _number in range(3)]
    assert scheduling.dispatch() == 1
    assert [fresh(run).status for run in runs] == ["assigned", "queued", "queued"]
    assert {place.reason for place in scheduling.queue_places(team)} == {Waiting.GPU_TIME_SPENT}
    change(runs[0], eta_s=30)  # its trainer can tell by now
    assert scheduling.dispatch() == 1
    change(runs[1], eta_s=29)
    assert scheduling.dispatch() == 1
    assert fresh(runs[2]).status == "assigned"


def test_a_run_that_ends_gives_back_what_was_promised_to_it(team, actor, base_model, node, db):
    limit(team, Quota.GPU_SECONDS, 60)
    version = make_version(team)
    first, second = (submit(team, actor, version, base_model) for _number in range(2))
    assert scheduling.dispatch() == 1
    change(first, status="failed", lease_token=None, ended_at=timezone.now())
    assert scheduling.dispatch() == 1
    assert fresh(second).status == "assigned"


def test_last_months_gpu_time_does_not_count(team, actor, base_model, node, db):
    limit(team, Quota.GPU_SECONDS, 60)
    first = timezone.now().date().replace(day=1)
    with team_scope(team.pk):
        team.usagedays.create(day=first - timedelta(days=1), gpu_seconds=1000)
        team.usagedays.create(day=first, gpu_seconds=59)
    submit(team, actor, make_version(team), base_model)
    assert scheduling.dispatch() == 1

"""The queue's clock: schedules exist once, name real functions, and old results go away."""

from datetime import timedelta

import pytest
from django.core.management import call_command
from django.utils import timezone
from django.utils.module_loading import import_string
from django_q.models import Schedule, Task

from experiments import tasks

pytestmark = pytest.mark.django_db


def test_schedules_are_made_once_and_call_functions_that_exist():
    for _ in range(2):
        call_command("ensure_schedules")
    made = Schedule.objects.order_by("name").values_list("name", "minutes")
    assert list(made) == [
        ("count-requests", 1),
        ("dispatch", 1),
        ("prune-api", 15),
        ("prune-datasets", 60),
        ("prune-deployments", 10),
        ("prune-queue-results", 60),
        ("prune-sessions", 60),
        ("sweep", 1),
        ("sweep-api", 1),
        ("sweep-imports", 1),
        ("sweep-quotas", 1),
        ("sweep-trackers", 1),
        ("watch-usage", 5),
    ]
    for schedule in Schedule.objects.all():
        assert callable(import_string(schedule.func))
        assert (schedule.schedule_type, schedule.repeats, schedule.cluster) == (Schedule.MINUTES, -1, None)


def test_a_schedule_that_differs_is_corrected_and_a_double_removed():
    due = timezone.now() + timedelta(seconds=30)
    for _ in range(2):
        Schedule.objects.create(name="sweep", func="old.place", schedule_type=Schedule.HOURLY, next_run=due)
    call_command("ensure_schedules")
    [sweep] = Schedule.objects.filter(name="sweep")
    assert (sweep.func, sweep.schedule_type, sweep.next_run) == ("experiments.tasks.sweep", Schedule.MINUTES, due)


def test_old_results_go_and_failures_stay_longer():
    now = timezone.now()

    def result(name, *, days, success):
        at = now - timedelta(days=days)
        Task.objects.create(id=name, name=name, func="f", success=success, started=at, stopped=at)

    result("new", days=0, success=True)
    result("old", days=2, success=True)
    result("failed", days=2, success=False)
    result("long ago", days=20, success=False)
    assert tasks.prune_queue_results() == 2
    assert set(Task.objects.values_list("name", flat=True)) == {"new", "failed"}


def test_tasks_answer_without_any_rows():
    assert tasks.dispatch() == 0
    assert tasks.sweep() == 0

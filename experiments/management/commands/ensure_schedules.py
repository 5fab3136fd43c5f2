"""`manage.py ensure_schedules`: the work that the queue does by the clock."""

from typing import Any

from django.core.management.base import BaseCommand
from django.db import connection, transaction
from django_q.models import Schedule

# (name, function, minutes between two calls). The clock only catches what a lost message left behind.
SCHEDULES = (
    ("dispatch", "experiments.tasks.dispatch", 1),
    ("sweep", "experiments.tasks.sweep", 1),
    ("sweep-trackers", "experiments.tasks.sweep_trackers", 1),
    ("sweep-imports", "datasets_app.tasks.sweep", 1),
    ("sweep-api", "deployments.tasks.sweep_api", 1),
    ("count-requests", "deployments.tasks.count_requests", 1),
    ("prune-api", "deployments.tasks.prune_api", 15),
    ("sweep-quotas", "portal.tasks.sweep_quotas", 1),
    ("watch-usage", "portal.tasks.watch_usage", 5),
    ("prune-sessions", "portal.tasks.prune", 60),
    ("prune-datasets", "datasets_app.tasks.prune", 60),
    ("prune-deployments", "deployments.tasks.prune", 10),
    ("prune-queue-results", "experiments.tasks.prune_queue_results", 60),
)
_LOCK = 4712


class Command(BaseCommand):
    """Create the schedules that are missing and correct those that differ."""

    help = "Create or correct the queue's schedules. Safe to repeat."

    @transaction.atomic
    def handle(self, *args: Any, **options: Any) -> None:
        """Make the schedules what they should be; when each is due next stays as it is."""
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])  # names are not unique in the database
        for name, function, minutes in SCHEDULES:
            wanted = {"func": function, "schedule_type": Schedule.MINUTES, "minutes": minutes, "repeats": -1}
            known = Schedule.objects.filter(name=name).order_by("pk")
            first = known.first()
            if first is None:
                Schedule.objects.create(name=name, **wanted)
            else:
                known.exclude(pk=first.pk).delete()
                known.filter(pk=first.pk).update(**wanted)

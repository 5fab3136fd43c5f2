"""Copies what runs measure to their team's tracker, from the queue: the training itself never waits for it.

`MetricPoint` ids only grow, and a corrected point gets a new one, so the last id that has arrived is all there is to
remember. A try takes its row by moving `next_try_at` ahead: a message that comes twice sends once, a lost one is found
by the clock. It writes down what became of it only while the row still says that moment: who changes the tracker
meanwhile moves it, and what went to the earlier one counts no more. Whatever fails here is written down, tried again,
and changes nothing about the run.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from django.db.models import F, QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from experiments.models import MetricPoint, Run
from experiments.trackers import mlflow
from experiments.trackers.models import TrackedRun, TrackerSetting
from portal import outbound, secrets
from portal.errors import PortalError
from portal.queue import enqueue_on_commit
from portal.rls import all_teams, team_scope

logger = logging.getLogger(__name__)

SEND: Final = "experiments.tasks.copy_to_tracker"
EVERY: Final = timedelta(seconds=20)  # the clock asks once a minute; this is less, so that no minute is missed
TAKEN_FOR: Final = timedelta(minutes=3)
RETRIES_AFTER_S: Final = (60, 120, 300, 900, 1_800, *(3_600,) * 23)  # about a day
LONGEST_TASK_S: Final = 45.0
POINTS_AT_A_TIME: Final = 500
MOST_NEW: Final = 200
ENDED: Final = {
    Run.Status.SUCCEEDED: "FINISHED",
    Run.Status.FAILED: "FAILED",
    Run.Status.CANCELLED: "KILLED",
}
FACTS: Final = ("exact_match", "json_valid", "schema_valid", "token_f1")
Status = TrackedRun.Status


@dataclass(frozen=True)
class _Taken:
    """A row that this try has taken, until the moment that the row says."""

    tracked_id: UUID
    team_id: UUID
    until: datetime

    def row(self) -> QuerySet[TrackedRun]:
        """Return the row as long as it is this try's."""
        return TrackedRun.unscoped.filter(pk=self.tracked_id, status=Status.OPEN, next_try_at=self.until)


@dataclass(frozen=True)
class News:
    """All that is to be sent of a run, so that no transaction is open while the tracker is waited for."""

    run: Run
    tracked: TrackedRun
    tracker: TrackerSetting
    key: str
    params: dict[str, Any]
    points: list[MetricPoint]
    report: dict[str, Any]

    @property
    def has_ended(self) -> bool:
        """Whether nothing comes after these points."""
        return self.run.is_terminal and len(self.points) < POINTS_AT_A_TIME


def sweep() -> int:
    """Take up runs that have started since their team has a tracker, and queue what is due. About once a minute."""
    with all_teams("the clock looks after every team's tracker"):
        for tracker in TrackerSetting.unscoped.filter(team__archived_at=None):
            fresh = Run.unscoped.filter(
                team=tracker.team_id, kind=Run.Kind.TRAINING, started_at__gte=tracker.since, tracked=None
            ).only("pk")[:MOST_NEW]
            rows = [TrackedRun(team_id=tracker.team_id, tracker=tracker, run=run) for run in fresh]
            TrackedRun.unscoped.bulk_create(rows, ignore_conflicts=True)
        due = TrackedRun.unscoped.filter(status=Status.OPEN, next_try_at__lte=timezone.now(), team__archived_at=None)
        keys = list(due.order_by("next_try_at").values_list("pk", flat=True)[:500])
        for key in keys:
            enqueue_on_commit(SEND, str(key))
    return len(keys)


def send(tracked_id: UUID) -> None:
    """Bring the tracker up to date about one run, if it is due; a doubled message does nothing."""
    taken = _take(tracked_id)
    if taken is None:
        return
    try:
        _bring_up_to_date(taken)
    except PortalError as error:
        with team_scope(taken.team_id):
            _note_failure(taken, error.message)


def _take(tracked_id: UUID) -> _Taken | None:
    """Take a row that is due."""
    now = timezone.now()
    with all_teams("a tracked run's id leads to its team"):
        due = TrackedRun.unscoped.filter(pk=tracked_id, status=Status.OPEN, next_try_at__lte=now)
        if not due.update(next_try_at=now + TAKEN_FOR, attempts=F("attempts") + 1):
            return None
        team_id = TrackedRun.unscoped.values_list("team_id", flat=True).get(pk=tracked_id)
    return _Taken(tracked_id, team_id, now + TAKEN_FOR)


def _bring_up_to_date(taken: _Taken) -> None:
    """Send all there is, as long as a task may take. Raises: PortalError."""
    ends_s = time.monotonic() + LONGEST_TASK_S
    while True:
        with team_scope(taken.team_id):
            news = _news(taken)
        if news is None:
            return
        with outbound.client(mlflow.headers_of(news.key)) as http:
            server = mlflow.Server(http, news.tracker.address)
            sent = _send(server, news)
        is_done = news.has_ended or len(news.points) < POINTS_AT_A_TIME or time.monotonic() >= ends_s
        with team_scope(taken.team_id):
            _note_success(taken, sent, is_done=is_done)
        if is_done:
            return


def _news(taken: _Taken) -> News | None:
    """Return what is new of a run, None if it was taken away meanwhile. Raises: PortalError if the key was."""
    tracked = taken.row().select_related("tracker", "team").first()
    if tracked is None:
        return None
    run = Run.unscoped.select_related("experiment", "base_model", "dataset_version__dataset").get(pk=tracked.run_id)
    points = run.metrics.filter(pk__gt=tracked.sent_point).order_by("pk")[:POINTS_AT_A_TIME]
    evaluation = getattr(run, "evaluation", None)
    tracker = tracked.tracker
    return News(
        run=run,
        tracked=tracked,
        tracker=tracker,
        key=secrets.reveal(team=tracked.team, name=tracker.secret) if tracker.secret else "",
        params={
            "base_model": run.base_model.slug,
            "base_revision": run.base_revision,
            "dataset_version": str(run.dataset_version),
            "recipe": run.recipe,
            **run.hyperparameters,
        },
        points=list(points),
        report=evaluation.report.get("tuned", {}) if evaluation else {},
    )


def _send(server: mlflow.Server, news: News) -> dict[str, Any]:
    """Send the news and return what has changed about the row. Raises: OutboundRefused, OutboundFailed."""
    tracked, run, points = news.tracked, news.run, news.points
    changed: dict[str, Any] = {}
    external_id = tracked.external_id
    if not external_id:
        experiment_id, external_id = _place(server, news)
        changed |= {"experiment_id": experiment_id, "external_id": external_id}
        server.log_params(external_id, news.params)
    for batch in _batches(points):
        server.log_metrics(external_id, batch)
    if points:
        changed |= {"sent_point": points[-1].pk, "sent_step": max(tracked.sent_step, *(one.step for one in points))}
    if news.has_ended:
        ended_ms = _ms(run.ended_at or timezone.now())
        figures = {f"heldout_{name}": news.report.get(name) for name in FACTS}
        server.log_metrics(external_id, list(mlflow.metrics_of(run.step, ended_ms, figures)))
        server.end_run(external_id, status=ENDED[Run.Status(run.status)], ended_ms=ended_ms)
        changed["status"] = Status.DONE
    return changed


def _place(server: mlflow.Server, news: News) -> tuple[str, str]:
    """Return the ids of experiment and run at the tracker, both made if they are not there."""
    name, key = news.tracker.experiment, str(news.run.pk)
    experiment_id = server.experiment(name) or server.make_experiment(name)
    started_ms = _ms(news.run.started_at or news.run.queued_at)
    made = server.find_run(experiment_id, key)
    return experiment_id, made or server.make_run(experiment_id, key, name=str(news.run), started_ms=started_ms)


def _batches(points: list[MetricPoint]) -> Iterator[list[mlflow.Metric]]:
    """Yield the figures of the points, so many at a time as one request may carry."""
    batch: list[mlflow.Metric] = []
    for point in points:
        figures = list(mlflow.metrics_of(point.step, _ms(point.at), point.values))
        if len(batch) + len(figures) > mlflow.MOST_METRICS:
            yield batch
            batch = []
        batch += figures
    if batch:
        yield batch


def _note_success(taken: _Taken, changed: dict[str, Any], *, is_done: bool) -> None:
    now = timezone.now()
    due = now + EVERY if is_done else taken.until
    taken.row().update(attempts=0, problem="", next_try_at=due, sent_at=now, **changed)


def _note_failure(taken: _Taken, problem: str) -> None:
    """Write down why nothing arrived, and when it is tried again, if it is."""
    rows = taken.row()
    tried = rows.values_list("attempts", flat=True).first()
    if tried is None:
        return
    logger.info("tracked run %s: try %d failed", taken.tracked_id, tried)
    if tried > len(RETRIES_AFTER_S):
        rows.update(status=Status.FAILED, problem=problem[:300])
        return
    wait_s = RETRIES_AFTER_S[max(0, tried - 1)]
    rows.update(problem=problem[:300], next_try_at=timezone.now() + timedelta(seconds=wait_s))


def try_tracker(tracker: TrackerSetting) -> str:
    """Ask the tracker for its experiment, here and now; return a sentence on it. Holds no transaction while it waits.

    Raises: PortalError with what is wrong.
    """
    with team_scope(tracker.team_id):
        key = secrets.reveal(team=tracker.team, name=tracker.secret) if tracker.secret else ""
    with outbound.client(mlflow.headers_of(key)) as http:
        known = mlflow.Server(http, tracker.address).experiment(tracker.experiment)
    if known is None:
        return _("The tracker answers. The experiment will be made with the first run.")
    return _("The tracker answers and knows the experiment.")


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)

"""A fine-tuning job as OpenAI's clients know it: status, events, checkpoints and the file of figures."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from deployments import tuned_models
from deployments.openai_api import files, job_settings
from deployments.openai_api.ids import Page, as_list
from deployments.openai_api.models import ApiFile, FineTuningJob
from experiments import kept
from experiments.models import MetricPoint, Run
from portal.actors import Actor
from portal.errors import InvalidInput
from portal.rls import all_teams, team_scope

State = FineTuningJob.State
MACHINE: Final = Actor.system("fine-tuning")
_EVENT_ID: Final = re.compile(r"ftevent-([jmr])(\d{1,18})-[0-9a-f]{8}\Z")
_STEP: Final = re.compile(r"ftckpt-([0-9a-f]{32})-(\d{1,9})\Z")
_LEVELS: Final = {"warning": "warn", "error": "error"}
# Of our figures those that OpenAI's clients know by another name.
_METRIC_NAMES: Final = {"loss": "train_loss", "validation_loss": "valid_loss"}


def status_of(job: FineTuningJob) -> str:
    """Return the job's state in OpenAI's words."""
    run = job.run
    if run is None:
        # A run that was deleted with its experiment ended long ago.
        words = {State.FAILED: "failed", State.CANCELLED: "cancelled", State.SUBMITTED: "cancelled"}
        return words.get(State(job.state), "paused" if job.is_paused else "validating_files")
    if run.status == Run.Status.QUEUED:
        return "paused" if run.is_held else "queued"
    return "queued" if run.status == Run.Status.ASSIGNED else run.status


def as_object(job: FineTuningJob) -> dict[str, Any]:
    """Return a job as OpenAI's clients know it. `job.run` and `job.team` are read."""
    run, status = job.run, status_of(job)
    chosen = run.hyperparameters if run else None
    told = job_settings.told(job.asked, job.method, chosen)
    ended = (run.ended_at if run else job.ended_at) if status in ("succeeded", "failed", "cancelled") else None
    return {
        "id": job.public_id,
        "object": "fine_tuning.job",
        "created_at": _seconds(job.created_at),
        "finished_at": _seconds(ended),
        "estimated_finish": _estimated_finish(job),
        "model": job.base_model.slug,
        "fine_tuned_model": job.model_name if status == "succeeded" and not job.is_model_deleted else None,
        "organization_id": job.team.slug,
        "status": status,
        "training_file": job.training_file_id_shown,
        "validation_file": job.validation_file_id_shown or None,
        "result_files": [f"file-{job.result_file_id.hex}"] if job.result_file_id else [],
        "trained_tokens": run.trained_tokens if run and status == "succeeded" else None,
        "hyperparameters": told,
        "method": {"type": job.method, job.method: {"hyperparameters": told}},
        "seed": job.seed,
        "metadata": job.metadata or None,
        "integrations": [],
        "error": _error_of(job),
        # Ours: where the same thing is found in the portal.
        "run_id": str(job.run_id) if job.run_id else None,
        "dataset_version_id": str(job.dataset_version_id) if job.dataset_version_id else None,
    }


def _error_of(job: FineTuningJob) -> dict[str, Any] | None:
    if job.state == State.FAILED:
        return {"code": job.error_code, "message": job.error_message, "param": job.error_param or None}
    if job.run is not None and job.run.status == Run.Status.FAILED:
        return {"code": job.run.error_code or "training_failed", "message": job.run.error_message, "param": None}
    return None


def _estimated_finish(job: FineTuningJob) -> int | None:
    run = job.run
    if run is None or run.status != Run.Status.RUNNING or run.eta_s is None:
        return None
    return _seconds(timezone.now() + timedelta(seconds=run.eta_s))


def _seconds(moment: datetime | None) -> int | None:
    return int(moment.timestamp()) if moment else None


# --- events ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, order=True)
class _Event:
    """One line of a job's history; they are ordered by time, then by where they come from and their number there."""

    at: datetime
    source: str  # j: the job itself, m: a metric point, r: the run's log
    number: int
    level: str
    message: str
    figures: Mapping[str, Any] | None = None

    def as_object(self, job: FineTuningJob) -> dict[str, Any]:
        return {
            "id": f"ftevent-{self.source}{self.number}-{job.pk.hex[:8]}",
            "object": "fine_tuning.job.event",
            "created_at": int(self.at.timestamp()),
            "level": self.level,
            "message": self.message,
            "type": "metrics" if self.figures is not None else "message",
            "data": dict(self.figures or {}),
        }


def events_page(job: FineTuningJob, page: Page) -> dict[str, Any]:
    """Return a page of a job's events, newest first; what is added meanwhile shifts nothing.

    Raises: InvalidInput for a cursor that is none.
    """
    before = _event_at(job, page.after) if page.after else None
    wanted = page.limit + 1
    found = sorted(
        [*_own_events(job), *_metric_events(job, before, wanted), *_log_events(job, before, wanted)],
        key=_order_of,
        reverse=True,
    )
    if before is not None:
        found = [event for event in found if _order_of(event) < _order_of(before)]
    shown = [event.as_object(job) for event in found[: page.limit]]
    return as_list(shown, has_more=len(found) > page.limit)


def _order_of(event: _Event) -> tuple[datetime, str, int]:
    return event.at, event.source, event.number


def _own_events(job: FineTuningJob) -> Iterator[_Event]:
    yield _Event(job.created_at, "j", 1, "info", _("The job was created; its files are being checked."))
    if job.validated_at:
        yield _Event(job.validated_at, "j", 2, "info", _("The files are in order; the job waits for a slot."))
    if job.state == State.FAILED and job.ended_at:
        yield _Event(job.ended_at, "j", 3, "error", job.error_message)
    if job.state == State.CANCELLED and job.ended_at:
        yield _Event(job.ended_at, "j", 4, "info", _("The job was cancelled."))


def _metric_events(job: FineTuningJob, before: _Event | None, count: int) -> Iterator[_Event]:
    if job.run is None:
        return
    points = job.run.metrics.order_by("-at", "-id")
    for point in (points.filter(at__lte=before.at) if before else points)[: count + 1]:
        yield _metric_event(job, point)


def _metric_event(job: FineTuningJob, point: MetricPoint) -> _Event:
    loss = point.values.get("loss")
    total = job.run.total_steps if job.run else 0
    message = _("Step %(step)d/%(total)d") % {"step": point.step, "total": total}
    if loss is not None:
        message = _("%(step)s: training loss=%(loss).2f") % {"step": message, "loss": loss}
    return _Event(point.at, "m", point.pk, "info", message, metrics_of(point))


def _log_events(job: FineTuningJob, before: _Event | None, count: int) -> Iterator[_Event]:
    if job.run is None:
        return
    lines = job.run.events.order_by("-at", "-id")
    for line in (lines.filter(at__lte=before.at) if before else lines)[: count + 1]:
        yield _Event(line.at, "r", line.pk, _LEVELS.get(line.level, "info"), line.message)


def _event_at(job: FineTuningJob, public_id: str) -> _Event:
    """Return the event behind a cursor. Raises: InvalidInput."""
    match = _EVENT_ID.match(public_id)
    found: _Event | None = None
    if match is not None:
        source, number = match[1], int(match[2])
        if source == "j":
            found = next((event for event in _own_events(job) if event.number == number), None)
        elif job.run is not None and source == "m":
            point = job.run.metrics.filter(pk=number).first()
            found = _metric_event(job, point) if point else None
        elif job.run is not None:
            line = job.run.events.filter(pk=number).first()
            found = _Event(line.at, "r", line.pk, "info", "") if line else None
    if found is None:
        raise InvalidInput(_("'after' names nothing in this list."), param="after")
    return found


def metrics_of(point: MetricPoint) -> dict[str, Any]:
    """Return the figures of one step, under OpenAI's names where they have some; ours come along."""
    figures = {_METRIC_NAMES.get(name, name): value for name, value in point.values.items() if value is not None}
    return {"step": point.step, **figures}


# --- checkpoints -------------------------------------------------------------------------------------------------


def checkpoints_page(job: FineTuningJob, page: Page) -> dict[str, Any]:
    """Return a page of a job's checkpoints, newest first. Raises: InvalidInput for a cursor that is none."""
    steps = sorted(_checkpoint_steps(job), reverse=True)
    if page.after:
        match = _STEP.match(page.after)
        if match is None or match[1] != job.pk.hex:
            raise InvalidInput(_("'after' names nothing in this list."), param="after")
        steps = [step for step in steps if step < int(match[2])]
    points = {point.step: point for point in job.run.metrics.filter(step__in=steps)} if job.run else {}
    known = tuned_models.callable_steps(job)
    entries = [_checkpoint(job, step, points.get(step), known) for step in steps[: page.limit]]
    return as_list(entries, has_more=len(steps) > page.limit)


def _checkpoint_steps(job: FineTuningJob) -> set[int]:
    """Return the steps at which the state was checked against validation rows, and the one that became the model."""
    if job.run is None:
        return set()
    measured = job.run.metrics.filter(values__has_key="validation_loss").values_list("step", flat=True)
    adapter = getattr(job.run, "adapter", None)
    return set(measured) | ({adapter.step} if adapter else set()) | kept.kept_steps(job.run)


def _checkpoint(job: FineTuningJob, step: int, point: MetricPoint | None, callable_steps: set[int]) -> dict[str, Any]:
    adapter = getattr(job.run, "adapter", None)
    created = point.at if point else adapter.created_at if adapter else job.created_at
    figures = metrics_of(point) if point else {"step": step}
    return {
        "id": f"ftckpt-{job.pk.hex}-{step}",
        "object": "fine_tuning.job.checkpoint",
        "created_at": int(created.timestamp()),
        "fine_tuned_model_checkpoint": f"{job.model_name}:ckpt-step-{step}",
        "fine_tuning_job_id": job.public_id,
        "step_number": step,
        "metrics": figures,
        # Ours: the result, and with `keep` “every” all of them; what was not kept does not answer.
        "is_callable": step in callable_steps,
    }


# --- the file of figures -----------------------------------------------------------------------------------------


def keep_results(job: FineTuningJob) -> None:
    """Write the figures of an ended run as a file, once. Call it in the team's row scope."""
    with transaction.atomic():
        rows = job.team.finetuningjobs.select_for_update(of=("self",))
        locked = rows.select_related("team", "run", "created_by").get(pk=job.pk)
        if locked.run is None or locked.result_file_id is not None:
            return
        actor = Actor(user=locked.created_by, machine="fine-tuning")
        locked.result_file = files.write(
            team=locked.team,
            actor=actor,
            purpose=ApiFile.Purpose.FINE_TUNE_RESULTS,
            name=f"step_metrics_{locked.pk.hex[:8]}.csv",
            parts=[_table(locked.run).encode()],
        )
        locked.save(update_fields=["result_file"])


def _table(run: Run) -> str:
    points = [metrics_of(point) for point in run.metrics.order_by("step")]
    names = ["step", *sorted({name for point in points for name in point} - {"step"})]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(points)
    return text.getvalue()


def keep_missing_results() -> int:
    """Write the files of figures that a lost message left out; return how many. Call it by the clock."""
    with all_teams("the clock looks after every team's jobs"):
        ended = FineTuningJob.unscoped.filter(run__status=Run.Status.SUCCEEDED, result_file=None)
        recent = ended.filter(run__ended_at__gt=timezone.now() - timedelta(days=1))
        jobs = list(recent.select_related("team")[:100])
    for job in jobs:
        with team_scope(job.team_id):
            keep_results(job)
    return len(jobs)

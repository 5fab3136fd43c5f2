"""The names of fine-tuned models under /v1: `ft:<base>:<team>:<suffix>:<id>`, also with `:ckpt-step-<step>` behind.

Such a name leads to the deployment version that was made of the job's run when it succeeded. Where there is none (it
was deleted, or the team may have no more of them), the adapter is loaded for a while when it is called.
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from typing import Final

from django.db.models import QuerySet
from django.utils import timezone

from deployments import placing, targets
from deployments.known_targets import Target
from deployments.models import FineTuningJob
from deployments.prompts import common_system_prompt
from experiments import kept
from experiments.models import Adapter
from portal.models import Team
from portal.rls import team_scope

PREFIX: Final = "ft:"
STAY: Final = timedelta(minutes=30)
_RENEW_WHEN_LEFT: Final = timedelta(minutes=20)
_CHECKPOINT: Final = re.compile(r"(?P<model>.+):ckpt-step-(?P<step>\d{1,9})\Z")


def resolve(team: Team, name: str) -> Target:
    """Return where to ask for any model by its name. Raises: as `targets.resolve`."""
    if not name.startswith(PREFIX) or not targets.is_writable(name):
        return targets.resolve(team, name)
    with team_scope(team.pk):
        job = find(team, name)
        adapter = _adapter_named(job, name)
        made = team.deploymentversions.filter(deployment__name=job.deployment_name, adapter=adapter)
        version = made.select_related("deployment").order_by("-number").first()
        if version is None:
            for deployment in team.deployments.filter(name=job.deployment_name):
                targets.refuse_retired(deployment)
            _wish_for(adapter)
        prompt = common_system_prompt(job.run.dataset_version) if job.run else ""
    if version is not None:  # this very version: what is promoted under the deployment's name is another matter
        return replace(targets.resolve(team, version.pinned_name), public_name=name)
    return targets.when_loaded(lambda: _placed(team, adapter, name, prompt))


def _placed(team: Team, adapter: Adapter, name: str, prompt: str) -> Target:
    with team_scope(team.pk):
        return targets.resolve_adapter(team, adapter, name, system_prompt=prompt)


def find(team: Team, name: str) -> FineTuningJob:
    """Return the job whose model has this name and can be called. Call it in the team's row scope. Raises: NotFound."""
    checkpoint = _CHECKPOINT.match(name)
    model_name = checkpoint["model"] if checkpoint else name
    job: FineTuningJob | None = callable_jobs(team).filter(model_name=model_name).first()
    if job is None or job.run is None or (checkpoint and int(checkpoint["step"]) not in kept.kept_steps(job.run)):
        raise targets.model_not_found()
    return job


def callable_steps(job: FineTuningJob) -> set[int]:
    """Return the steps whose checkpoints answer by their names. Call it in the team's row scope."""
    ended = job.run is not None and job.run.status == "succeeded" and not job.is_model_deleted
    return kept.kept_steps(job.run) if ended and job.run is not None else set()


def callable_jobs(team: Team) -> QuerySet[FineTuningJob]:
    """Return the jobs that have left a model which nobody deleted."""
    rows: QuerySet[FineTuningJob] = team.finetuningjobs.filter(run__status="succeeded", is_model_deleted=False)
    return rows.filter(run__adapter__isnull=False).select_related(
        "team", "run__team", "run__base_model", "run__adapter__base_model", "run__dataset_version"
    )


def _adapter_named(job: FineTuningJob, name: str) -> Adapter:
    """Return the adapter behind the name of a job's model or of one of its checkpoints. Raises: QuotaExceeded."""
    assert job.run is not None
    checkpoint = _CHECKPOINT.match(name)
    return kept.adapter_of(job.run, int(checkpoint["step"])) if checkpoint else job.run.adapter


def _wish_for(adapter: Adapter) -> None:
    """Have the adapter loaded for a while, without a write for each request."""
    until = timezone.now() + STAY
    if (
        not adapter.placements.filter(wanted_until__gt=until - STAY + _RENEW_WHEN_LEFT)
        .exclude(status="failed")
        .exists()
    ):
        placing.ensure_placement(adapter=adapter, wanted_until=until)

"""Fine-tuning jobs: what people may do with them, and how their files become a dataset version and a run.

A job is an order. The queue checks its files and imports them with the services that pages use; then it is a run of an
experiment of its own name, and what the run says is what the job says.
"""

from __future__ import annotations

import hashlib
import secrets
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Final
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext as _

from datasets_app import services as datasets
from datasets_app import tasks as dataset_tasks
from datasets_app.models import DatasetVersion, Split
from datasets_app.options import ImportOptions
from datasets_app.reports import error_in_words, fault_in_words
from datasets_app.sources import FetchedFile
from deployments import targets
from deployments.openai_api import files, job_settings, training_rows
from deployments.openai_api.job_settings import JobOrder
from deployments.openai_api.models import ApiFile, FineTuningJob
from deployments.webhooks import outbox
from experiments import holding
from experiments import services as experiments
from experiments.models import Experiment, Run
from portal import audit
from portal.access import may_still_edit
from portal.actors import Actor
from portal.errors import IllegalTransition, InvalidInput, PortalError
from portal.models import BaseModel, Team
from portal.queue import LONG_S, enqueue_on_commit
from portal.rls import all_teams, team_scope

PREFIX: Final = "ftjob-"
PREPARE: Final = "deployments.tasks.prepare_fine_tuning"
# A worker that says nothing for so long is gone; the clock lets another one look at the files.
STALLED_AFTER: Final = timedelta(minutes=5)
WAIT_FOR_IMPORT_S: Final = 180.0
# Held out where no validation file came: without any, nobody could say how good the model is.
VALIDATION_SHARE: Final = 0.1
MACHINE: Final = Actor.system("fine-tuning")
State = FineTuningJob.State


@transaction.atomic
def create_job(*, team: Team, actor: Actor, order: JobOrder) -> FineTuningJob:
    """Take an order; its files are checked by the queue. Call it in the team's row scope.

    Raises: InvalidInput, NotFound for a model or file that is not there, QuotaExceeded if too many runs wait already.
    """
    base_model, continue_from = _start_of(team, order.model)
    training = _usable_file(team, order.training_file, "training_file")
    validation = _usable_file(team, order.validation_file, "validation_file") if order.validation_file else None
    experiments.require_room_in_queue(team)
    job = FineTuningJob(
        team=team,
        base_model=base_model,
        continue_from=continue_from,
        asked_model=order.model,
        training_file=training,
        validation_file=validation,
        training_file_id_shown=training.public_id,
        validation_file_id_shown=validation.public_id if validation else "",
        files_hash=_files_hash(training, validation, order.method),
        suffix=order.suffix,
        method=order.method,
        asked=dict(order.asked),
        recipe=order.recipe,
        seed=order.seed if order.seed is not None else secrets.randbelow(2**31),
        metadata=dict(order.metadata),
        created_by=actor.user,
    )
    job.model_name = f"ft:{base_model.slug}:{team.slug}:{order.suffix}:{job.pk.hex[:8]}"
    job.save(force_insert=True)
    audit.record(team, actor, "fine_tuning.created", job, base_model=base_model.slug, method=order.method)
    enqueue_on_commit(PREPARE, str(job.pk), timeout_s=LONG_S)
    return job


def _start_of(team: Team, name: str) -> tuple[BaseModel, Run | None]:
    """Return the base model to train, and the run whose adapter to go on from if a tuned model was named."""
    earlier = team.finetuningjobs.filter(model_name=name, is_model_deleted=False, run__adapter__isnull=False)
    found = earlier.select_related("run__base_model").first()
    if found is not None and found.run is not None:
        return found.run.base_model, found.run
    model = BaseModel.objects.filter(slug=name).first() if targets.is_writable(name) else None
    if model is None:
        raise targets.model_not_found()
    experiments.require_allowed(model, param="model")
    return model, None


def _usable_file(team: Team, public_id: str, param: str) -> ApiFile:
    file = files.find_file(team, public_id, param=param)
    if file.purpose != ApiFile.Purpose.FINE_TUNE:
        raise InvalidInput(_("This file was not uploaded with the purpose 'fine-tune'."), param=param)
    return file


def _files_hash(training: ApiFile, validation: ApiFile | None, method: str) -> str:
    parts = [training.sha256, validation.sha256 if validation else "", "dpo" if method == "dpo" else ""]
    return hashlib.sha256("|".join(parts).encode()).hexdigest()


# --- what is done to a job ---------------------------------------------------------------------------------------


@transaction.atomic
def cancel_job(*, job: FineTuningJob, actor: Actor) -> FineTuningJob:
    """Stop a job in whatever state it is. Raises: IllegalTransition if it has ended."""
    job = _locked(job)
    if job.run is not None:
        try:
            experiments.cancel_run(run=job.run, actor=actor)
        except IllegalTransition as error:
            raise IllegalTransition(error.message, code="job_not_cancellable") from None
        return job
    if job.state != State.VALIDATING:
        raise IllegalTransition(_("This job has already ended, so it cannot be cancelled."), code="job_not_cancellable")
    job.state, job.ended_at = State.CANCELLED, timezone.now()
    job.save(update_fields=["state", "ended_at"])
    outbox.emit(job.team, "fine_tuning.job.cancelled", job.public_id)
    audit.record(job.team, actor, "fine_tuning.cancelled", job)
    return job


@transaction.atomic
def pause_job(*, job: FineTuningJob, actor: Actor) -> FineTuningJob:
    """Keep a job from learning until it is resumed. Raises: IllegalTransition if it has ended."""
    return _set_paused(job, actor, is_paused=True)


@transaction.atomic
def resume_job(*, job: FineTuningJob, actor: Actor) -> FineTuningJob:
    """Let a paused job go on. Raises: IllegalTransition if it is not paused."""
    return _set_paused(job, actor, is_paused=False)


def _set_paused(job: FineTuningJob, actor: Actor, *, is_paused: bool) -> FineTuningJob:
    job = _locked(job)
    if job.run is not None:
        (holding.pause_run if is_paused else holding.resume_run)(run=job.run, actor=actor)
    elif job.state != State.VALIDATING:
        raise IllegalTransition(_("This job has already ended."), code="job_has_ended")
    elif not is_paused and not job.is_paused:
        raise IllegalTransition(_("This job is not paused."), code="job_not_paused")
    elif job.is_paused != is_paused:
        job.is_paused = is_paused
        job.save(update_fields=["is_paused"])
        audit.record(job.team, actor, "run.paused" if is_paused else "run.resumed", job)
    return job


def _locked(job: FineTuningJob) -> FineTuningJob:
    rows = job.team.finetuningjobs.select_for_update(of=("self",))
    return rows.select_related("team", "run__experiment__team", "base_model").get(pk=job.pk)


# --- what the queue does -----------------------------------------------------------------------------------------


def prepare(job_id: UUID) -> None:
    """Import a job's files and submit its run; it ends FAILED with the parameter that is at fault otherwise.

    Any message may come twice: who claims the job works on it.
    """
    job = _claim(job_id)
    if job is None:
        return
    with team_scope(job.team_id):
        if not may_still_edit(job.team, job.created_by):
            _fail(job, "submitter_lost_access", _("The person who ordered this job may no longer train models."))
            return
        try:
            version = job.dataset_version or _same_rows(job) or _begin_import(job)
        except PortalError as error:
            _fail(job, error.code, error.message, _file_param(error.param))
            return
        job.team.finetuningjobs.filter(pk=job.pk).update(dataset_version=version)
    deadline = time.monotonic() + WAIT_FOR_IMPORT_S
    dataset_tasks.import_version(str(version.pk))
    while not advance(job_id) and time.monotonic() < deadline:
        time.sleep(0.5)  # another worker took the import over; if it takes long, the clock comes back to it


def advance(job_id: UUID) -> bool:
    """Submit the run of a job whose rows are ready, or end it if they cannot be; return whether nothing is to wait for.

    Safe to call at any time and any number of times.
    """
    with all_teams("a job's id leads to its team"):
        team_id = FineTuningJob.unscoped.filter(pk=job_id).values_list("team_id", flat=True).first()
    if team_id is None:
        return True
    with team_scope(team_id):
        job = _locked(FineTuningJob.unscoped.select_related("team").get(pk=job_id))
        version = job.dataset_version
        if job.state != State.VALIDATING or version is None:
            return job.state != State.VALIDATING
        if version.status == DatasetVersion.Status.FAILED:
            _fail(job, "invalid_training_file", _import_problem(version), _faulty_param(version))
        elif version.status == DatasetVersion.Status.READY:
            _submit(job, version)
        else:
            return False
    return True


def sweep() -> int:
    """Go on with jobs whose worker died or whose import took long; return how many. Call it by the clock."""
    long_ago = timezone.now() - STALLED_AFTER
    with all_teams("the clock looks after every team's jobs"):
        open_jobs = FineTuningJob.unscoped.filter(state=State.VALIDATING)
        waiting = list(open_jobs.filter(dataset_version__isnull=False).values_list("pk", flat=True)[:200])
        lost = open_jobs.filter(dataset_version=None).filter(Q(claimed_at=None) | Q(claimed_at__lt=long_ago))
        stalled = list(lost.filter(created_at__lt=timezone.now() - timedelta(minutes=1)).values_list("pk", flat=True))
    for job_id in waiting:
        advance(job_id)
    with transaction.atomic():
        for job_id in stalled:
            enqueue_on_commit(PREPARE, str(job_id), timeout_s=LONG_S)
    return len(waiting) + len(stalled)


def _claim(job_id: UUID) -> FineTuningJob | None:
    with all_teams("a job's id leads to its team"):
        now = timezone.now()
        free = Q(claimed_at=None) | Q(claimed_at__lt=now - STALLED_AFTER)
        if not FineTuningJob.unscoped.filter(free, pk=job_id, state=State.VALIDATING).update(claimed_at=now):
            return None
        related = ("team", "created_by", "training_file__team", "validation_file__team", "dataset_version")
        return FineTuningJob.unscoped.select_related(*related).get(pk=job_id)


def _same_rows(job: FineTuningJob) -> DatasetVersion | None:
    """Return the version that an earlier job made of the same files, so that they are not stored twice."""
    made = job.team.finetuningjobs.filter(files_hash=job.files_hash, dataset_version__deleted_at=None)
    ready = made.filter(dataset_version__status=DatasetVersion.Status.READY)
    earlier = ready.select_related("dataset_version").order_by("created_at").first()
    return earlier.dataset_version if earlier is not None else None


def _begin_import(job: FineTuningJob) -> DatasetVersion:
    """Make a dataset version of the job's files. Raises: PortalError, naming the split at fault."""
    if job.training_file is None:
        raise InvalidInput(_("The training file has been deleted."), param="training_file")
    actor = Actor(user=job.created_by, machine="fine-tuning")
    mapping = training_rows.mapping_for(job.training_file.path, method=job.method, param="training_file")
    options = ImportOptions(validation_share=VALIDATION_SHARE, test_share=0.0)
    with tempfile.TemporaryDirectory(dir=settings.FILE_UPLOAD_TEMP_DIR) as work:
        sources = {Split.TRAIN: _source(job, job.training_file, "training_file", Path(work))}
        if job.validation_file is not None:
            sources[Split.VALIDATION] = _source(job, job.validation_file, "validation_file", Path(work))
        version = datasets.start_import(
            team=job.team,
            actor=actor,
            name=_dataset_name(job),
            description=_("Made of a file that was uploaded for fine-tuning."),
            files=sources,
        )
    return datasets.begin_import(version=version, actor=actor, mapping=mapping, options=options)


def _source(job: FineTuningJob, file: ApiFile, param: str, work: Path) -> FetchedFile:
    """Return the file as the import takes it: linked, or written anew where its shape is another one."""
    if job.method != "dpo":
        return FetchedFile(file.name, file.path, file.size_bytes, file.sha256, counted_as=file.pk)
    path, digest = work / f"{file.pk}.jsonl", hashlib.sha256()
    with path.open("wb") as target:
        for line in training_rows.preference_lines(file.path, param=param):
            digest.update(line)
            target.write(line)
    return FetchedFile(file.name, path, path.stat().st_size, digest.hexdigest())


def _dataset_name(job: FineTuningJob) -> str:
    name = job.training_file.name.removesuffix(".jsonl") if job.training_file else ""
    return f"{name[:100] or 'file'} ({job.pk.hex[:8]})"


def _submit(job: FineTuningJob, version: DatasetVersion) -> None:
    actor = Actor(user=job.created_by, machine="fine-tuning")
    try:
        with transaction.atomic():
            run = experiments.submit_run(
                experiment=_experiment(job, actor),
                actor=actor,
                dataset_version=version,
                base_model=job.base_model,
                recipe=job.recipe,
                hyperparameters=job_settings.hyperparameters_for(job, version),
                deploy_as=job.deployment_name,
                continue_from=job.continue_from,
            )
            if job.is_paused:
                holding.pause_run(run=run, actor=actor)
    except PortalError as error:
        _fail(job, error.code, error.message, error.param or "")
        return
    job.run, job.state, job.validated_at = run, State.SUBMITTED, timezone.now()
    job.save(update_fields=["run", "state", "validated_at"])


def _experiment(job: FineTuningJob, actor: Actor) -> Experiment:
    """Return the experiment that jobs of the same suffix are runs of; without one, those of the same rows."""
    name = f"API: {job.suffix or (job.dataset_version.dataset.name if job.dataset_version else '')}"[:120]
    known: Experiment | None = job.team.experiments.filter(name=name).first()
    notes = _("Runs that were ordered as fine-tuning jobs under /v1.")
    return known or experiments.create_experiment(team=job.team, actor=actor, name=name, notes=notes)


def _fail(job: FineTuningJob, code: str, message: str, param: str = "") -> None:
    failed = job.team.finetuningjobs.filter(pk=job.pk, state=State.VALIDATING)
    if failed.update(
        state=State.FAILED,
        ended_at=timezone.now(),
        error_code=code[:40],
        error_message=message[:2_000],
        error_param=param[:60],
    ):
        outbox.emit(job.team, "fine_tuning.job.failed", job.public_id)
        audit.record(job.team, MACHINE, "fine_tuning.failed", job, outcome="failed", code=code[:40])


def _file_param(param: str | None) -> str:
    """Return the name that clients gave the file which the import calls by its split."""
    if param in ("training_file", "validation_file") or param is None:
        return param or "training_file"
    return "validation_file" if param.startswith("validation") else "training_file"


def _faulty_param(version: DatasetVersion) -> str:
    faults = version.report.get("faults") or [version.report.get("error") or {}]
    return _file_param(str(faults[0].get("split", "")) or None)


def _import_problem(version: DatasetVersion) -> str:
    faults = version.report.get("faults")
    if not faults:
        return error_in_words(version.report)
    said = fault_in_words(faults[0])
    more = int(version.report.get("fault_count", 1)) - 1
    message = _("Line %(line)s: %(sentence)s") % {"line": said["line"], "sentence": said["message"]}
    return message + (" " + _("%(count)d more rows are faulty.") % {"count": more} if more else "")

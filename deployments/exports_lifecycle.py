"""What the worker that exports models reports: claim, progress, end; and what is deleted when its days are over."""

from __future__ import annotations

import logging
import shutil
import uuid
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final
from uuid import UUID

from django.conf import settings
from django.db.models import QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from datasets_app.claims import ClaimLost, Claims
from deployments.model_card import card_of, file_stem
from deployments.models import ModelExport
from portal import audit, secrets
from portal.access import may_still_edit
from portal.actors import Actor
from portal.queue import LONG_S
from portal.rls import all_teams, team_scope

logger = logging.getLogger(__name__)

MAX_ATTEMPTS: Final = 3
KEPT_FOR: Final = timedelta(days=7)
MACHINE: Final = Actor.system("export")
Status = ModelExport.Status
EXPORTS: Final = Claims(
    ModelExport,
    open=ModelExport.OPEN,
    task="gpu_worker.exports.work_on_export",
    stalled_after=timedelta(minutes=10),
    called="exports",
    timeout_s=LONG_S,
)


@dataclass(frozen=True)
class ExportJob:
    """A claimed export: all that the worker needs, so that it can work without a transaction."""

    export_id: UUID
    team_id: UUID
    claim: UUID
    kind: str
    weights: str
    base: Path
    adapter: Path
    folder: Path
    name: str
    card: str
    repository: str
    is_private: bool
    whole_model: bool
    attempt: int


def claim_export(export_id: UUID) -> ExportJob | None:
    """Take an export that nobody works on, counting the attempt; return None if there is nothing to do."""
    team_id = EXPORTS.team_of(export_id)
    if team_id is None:
        return None
    claim = uuid.uuid4()
    with team_scope(team_id):
        if not EXPORTS.take(export_id, claim, attempts=MAX_ATTEMPTS, status=Status.RUNNING, progress=0):
            if EXPORTS.unclaimed(export_id).update(claim=claim):
                _end(export_id, claim, Status.FAILED, error=_("It stopped several times without an end."), size_bytes=0)
            return None
        found = ModelExport.unscoped.select_related(
            "team", "created_by", "adapter__base_model", "adapter__team", "adapter__run__experiment",
            "adapter__run__dataset_version__dataset", "adapter__run__base_model", "adapter__run__evaluation",
        )  # fmt: skip
        export = found.get(pk=export_id)
        if not may_still_edit(export.team, export.created_by):
            sentence = _("The person who started this may no longer export models of the team.")
            _end(export_id, claim, Status.FAILED, error=sentence, size_bytes=0)
            return None
        return ExportJob(
            export_id, team_id, claim, export.kind, export.weights, export.adapter.base_model.folder,
            export.adapter.folder, export.folder, file_stem(export.adapter.run), card_of(export.adapter.run),
            export.repository, export.is_private, export.whole_model, export.attempts,
        )  # fmt: skip


def report_progress(job: ExportJob, share: float) -> None:
    """Say that the worker lives and how far it is. Raises: ClaimLost."""
    with team_scope(job.team_id):
        percent = round(100 * min(max(share, 0), 1))
        if not _claimed(job).update(progress=percent, heartbeat_at=timezone.now()):
            raise ClaimLost


def credential_of(job: ExportJob) -> str:
    """Return the hub's credential that the team has chosen for this export. Raises: PortalError."""
    with team_scope(job.team_id):
        export = ModelExport.unscoped.select_related("team").get(pk=job.export_id)
        return secrets.reveal(team=export.team, name=export.secret_name)


def export_ready(job: ExportJob, *, file: Path | None = None, url: str = "") -> bool:
    """Note the end of an export: a file, or an address on the hub; return whether it was still wanted."""
    told = {"file_name": file.name, "size_bytes": file.stat().st_size} if file else {"size_bytes": 0}
    expires_at = timezone.now() + KEPT_FOR if file else None
    with team_scope(job.team_id):
        return _end(job.export_id, job.claim, Status.READY, progress=100, url=url, expires_at=expires_at, **told)


def export_failed(job: ExportJob, sentence: str) -> None:
    """Note why an export failed; nothing of it is left."""
    with team_scope(job.team_id):
        _end(job.export_id, job.claim, Status.FAILED, error=sentence, size_bytes=0)
    remove(job.folder)


def try_again(job: ExportJob) -> bool:
    """Put an export that a hub did not take back into the queue; return False if it was the last attempt."""
    if job.attempt >= MAX_ATTEMPTS:
        return False
    with team_scope(job.team_id):
        if _claimed(job).update(status=Status.QUEUED, claim=None, heartbeat_at=timezone.now()):
            EXPORTS.enqueue(job.export_id)
    return True


def _claimed(job: ExportJob) -> QuerySet[ModelExport]:
    return ModelExport.unscoped.filter(pk=job.export_id, claim=job.claim, status=Status.RUNNING)


def _end(export_id: UUID, claim: UUID, status: str, **values: object) -> bool:
    ended = ModelExport.unscoped.filter(pk=export_id, claim=claim, status__in=ModelExport.OPEN)
    if not ended.update(status=status, claim=None, **values):
        return False
    export = ModelExport.unscoped.select_related("team").get(pk=export_id)
    action = "export.ready" if status == Status.READY else "export.failed"
    audit.record(export.team, MACHINE, action, export, kind=export.kind)
    return True


def prune() -> int:
    """Delete files of exports whose days are over, and folders of exports that are gone; return how many rows."""
    # Looked for first: a folder that is made meanwhile has its row already when the rows are asked for.
    folders = list((Path(settings.DATA_DIR) / "teams").glob("*/exports/*"))
    with all_teams("exports of all teams are kept for some days"):
        over = list(ModelExport.unscoped.select_related("team").filter(expires_at__lt=timezone.now()))
        for export in over:
            remove(export.folder)
            export.delete()
        known = {str(pk) for pk in ModelExport.unscoped.values_list("pk", flat=True)}
    for folder in folders:
        if folder.name not in known:
            remove(folder)
    return len(over)


def remove(folder: Path) -> None:
    """Remove an export's folder, if it is there."""
    shutil.rmtree(folder, ignore_errors=True)

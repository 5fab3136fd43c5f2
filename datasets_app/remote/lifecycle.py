"""What the worker that fetches reports: claim, progress, end; and the sweep that finds what was lost."""

from __future__ import annotations

import logging
import shutil
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from datasets_app import services, sources
from datasets_app.claims import ClaimLost
from datasets_app.models import DatasetVersion, RemoteFetch, Split
from datasets_app.remote.gather import Gathered
from datasets_app.remote.services import FETCHES
from datasets_app.remote.spec import without_query
from portal import audit, quotas, secrets, usage
from portal.access import may_still_edit
from portal.actors import Actor
from portal.errors import PortalError
from portal.models import Quota
from portal.rls import all_teams, team_scope

logger = logging.getLogger(__name__)

MAX_ATTEMPTS: Final = 3
MACHINE: Final = Actor.system("fetch")
Status = RemoteFetch.Status


@dataclass(frozen=True)
class FetchJob:
    """A claimed fetch: all that the worker needs, so that it can work without a transaction."""

    fetch_id: UUID
    version_id: UUID
    team_id: UUID
    claim: UUID
    folder: Path
    source: Mapping[str, str]


def claim_fetch(version_id: UUID) -> FetchJob | None:
    """Take a fetch that nobody works on, counting the attempt; return None if there is nothing to do."""
    with all_teams("the queue knows only the id of a version"):
        found = RemoteFetch.unscoped.filter(version=version_id)
        fetch = found.select_related("version__team", "created_by").first()
    if fetch is None or fetch.version.deleted_at is not None:
        return None
    claim = uuid.uuid4()
    with team_scope(fetch.team_id):
        if not may_still_edit(fetch.version.team, fetch.created_by):
            _give_up(fetch, claim, _("The person who started this may no longer change datasets of the team."))
            return None
        started = {"status": Status.RUNNING, "bytes_done": 0, "bytes_total": None}
        if not FETCHES.take(fetch.pk, claim, attempts=MAX_ATTEMPTS, **started):
            _give_up(fetch, claim, _("It stopped several times without an end. Try again later."))
            return None
    folder = fetch.version.folder
    return FetchJob(fetch.pk, version_id, fetch.team_id, claim, folder, dict(fetch.source))


def is_waiting(version_id: UUID) -> bool:
    """Tell whether a fetch waits for a worker."""
    with all_teams("the queue knows only the id of a version"):
        fetch = RemoteFetch.unscoped.filter(version=version_id).first()
        return fetch is not None and FETCHES.unclaimed(fetch.pk).exists()


def _give_up(fetch: RemoteFetch, claim: UUID, sentence: str) -> None:
    if FETCHES.unclaimed(fetch.pk).update(claim=claim):
        _fail(fetch.pk, claim, sentence, "gave_up")


def _claimed(job: FetchJob) -> QuerySet[RemoteFetch]:
    return RemoteFetch.unscoped.filter(pk=job.fetch_id, claim=job.claim, status=Status.RUNNING)


def secret_of(job: FetchJob) -> str:
    """Return the secret that the source names, "" if it names none. Raises: PortalError."""
    name = job.source.get("secret", "")
    if not name:
        return ""
    with team_scope(job.team_id):
        team = RemoteFetch.unscoped.select_related("team").get(pk=job.fetch_id).team
        return secrets.reveal(team=team, name=name)


def report_progress(job: FetchJob, bytes_done: int, bytes_total: int | None) -> None:
    """Say that the worker lives and how far it is. Raises: ClaimLost."""
    with team_scope(job.team_id):
        alive = _claimed(job).update(bytes_done=bytes_done, bytes_total=bytes_total, heartbeat_at=timezone.now())
    if not alive:
        raise ClaimLost


def require_room(job: FetchJob, bytes_to_come: int) -> None:
    """Refuse to fetch what the team has no room for. Raises: QuotaExceeded, ClaimLost."""
    with team_scope(job.team_id):
        fetch = _claimed(job).select_related("team").first()
        if fetch is None:
            raise ClaimLost
        quotas.require_room(
            fetch.team, Quota.STORAGE_BYTES, lambda: usage.storage_bytes(fetch.team), adding=bytes_to_come, lock=False
        )


def finish_fetch(job: FetchJob, gathered: Mapping[Split, Gathered]) -> None:
    """Make the files those of the version, in one step as others see it: DRAFT, or on to the import.

    Raises: ClaimLost; PortalError if a file is no table, or there is no room for it.
    """
    with ExitStack() as stack, team_scope(job.team_id), transaction.atomic():
        fetch = _claimed(job).select_for_update().select_related("team").first()
        if fetch is None:
            raise ClaimLost
        versions = DatasetVersion.unscoped.select_for_update(of=("self",)).select_related("team", "dataset")
        version = versions.filter(pk=job.version_id).first()
        if version is None:  # discarded, but kept for a while
            raise ClaimLost
        # Only now: the folder belongs to whoever holds the claim, and may be that of a fetch that has ended.
        shutil.rmtree(job.folder, ignore_errors=True)
        stack.enter_context(sources.folder_or_nothing(job.folder))
        sources.store_all(version, {split: one.file for split, one in gathered.items()})
        for source in version.sources.all():
            source.origin = gathered.get(Split(source.split), gathered[Split.TRAIN]).origin
            source.save(update_fields=["origin"])
        adding = sum(one.file.size_bytes for one in gathered.values())
        quotas.require_room(
            version.team,
            Quota.STORAGE_BYTES,
            lambda: usage.storage_bytes(version.team) - adding,
            adding=adding,
            lock=True,
        )
        version.status = DatasetVersion.Status.DRAFT
        version.save(update_fields=["status"])
        kept = {name: without_query(text) if name == "url" else text for name, text in fetch.source.items()}
        _claimed(job).update(status=Status.DONE, claim=None, source=kept, error="", error_code="")
        audit.record(version.team, MACHINE, "dataset.fetched", version, files=len(gathered), bytes=adding)
        if fetch.begin is not None:
            services.begin_fetched(version=version, actor=Actor(user=fetch.created_by), begin=fetch.begin)
    logger.info("files of dataset version %s are here: %d bytes", job.version_id, adding)


def fail_fetch(job: FetchJob, error: PortalError) -> None:
    """End a fetch with a sentence. Does nothing if the claim is lost."""
    with team_scope(job.team_id):
        _fail(job.fetch_id, job.claim, error.message, error.code)


def _fail(fetch_id: UUID, claim: UUID, sentence: str, code: str) -> None:
    mine = RemoteFetch.unscoped.filter(pk=fetch_id, claim=claim).exclude(status__in=(Status.DONE, Status.FAILED))
    if not mine.update(status=Status.FAILED, error=sentence[:1000], error_code=code[:40], claim=None):
        return
    fetch = RemoteFetch.unscoped.select_related("team", "version__dataset").get(pk=fetch_id)
    audit.record(fetch.team, MACHINE, "dataset.fetch_failed", fetch.version, outcome="failed", code=code)
    logger.info("fetching the files of dataset version %s failed: %s", fetch.version_id, code)


def requeue_stalled_fetches() -> int:
    """Queue fetches again whose message or worker was lost; return how many. Call it about once a minute."""
    return FETCHES.requeue_stalled(status=Status.QUEUED)

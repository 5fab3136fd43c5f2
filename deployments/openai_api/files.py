"""What programs may do with files under /v1: upload, read, delete. Their bytes count against the team's storage."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import IO, Any, Final

from django.core.files.uploadedfile import UploadedFile
from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from deployments.openai_api.ids import find
from deployments.openai_api.models import ApiFile, BatchJob, FineTuningJob
from portal import audit, quotas, usage
from portal.actors import Actor
from portal.errors import IllegalTransition, InvalidInput
from portal.models import Quota, Team
from portal.rls import all_teams, team_scope

BLOCK_BYTES: Final = 1 << 20
UPLOADED: Final = (ApiFile.Purpose.FINE_TUNE, ApiFile.Purpose.BATCH)
# More than this is checked when the file is used; an upload has to be answered soon.
LINES_CHECKED: Final = 1_000
LONGEST_LINE_BYTES: Final = 4 * 1024 * 1024
LEAST_LIFE, LONGEST_LIFE = timedelta(hours=1), timedelta(days=30)
PREFIX: Final = "file-"
MACHINE: Final = Actor.system("files")


def living(team: Team) -> QuerySet[ApiFile]:
    """Return the files of a team whose time is not up. Call it in the team's row scope."""
    rows: QuerySet[ApiFile] = team.apifiles.all()
    return rows.filter(Q(expires_at=None) | Q(expires_at__gt=timezone.now())).select_related("team")


def find_file(team: Team, public_id: object, *, param: str = "file_id") -> ApiFile:
    """Return a file of the team. Raises: NotFound."""
    return find(living(team), PREFIX, public_id, param=param)


@transaction.atomic
def upload(
    *, team: Team, actor: Actor, purpose: str, content: UploadedFile[bytes], expires_after_s: int | None = None
) -> ApiFile:
    """Keep an uploaded file and look at its first lines; one that cannot be used is kept with status `error`.

    Raises: InvalidInput naming the parameter, QuotaExceeded.
    """
    if purpose not in UPLOADED:
        known = ", ".join(UPLOADED)
        raise InvalidInput(_("'purpose' has to be one of: %(known)s.") % {"known": known}, param="purpose")
    name = _shown(content.name or "")
    if not name.lower().endswith(".jsonl"):
        raise InvalidInput(
            _("Only .jsonl files can be used: one JSON object on each line."), param="file", code="invalid_file_format"
        )
    if not content.size:
        raise InvalidInput(_("The file is empty."), param="file", code="empty_file")
    file = ApiFile(team=team, purpose=purpose, name=name, created_by=actor.user, expires_at=_end_of(expires_after_s))
    with content.open("rb") as stream:
        return _keep(file, actor, blocks(stream))


def digest_of(content: UploadedFile[bytes]) -> str:
    """Return the sha256 of an upload, which can be read from its beginning afterwards."""
    digest = hashlib.sha256()
    for block in content.chunks(BLOCK_BYTES):  # not opened in a `with`: what lay in memory would be gone at its end
        digest.update(block)
    content.seek(0)
    return digest.hexdigest()


def write(*, team: Team, actor: Actor, purpose: ApiFile.Purpose, name: str, parts: Iterable[bytes]) -> ApiFile:
    """Keep a file that the portal itself wrote. Call it in the team's row scope. Raises: QuotaExceeded."""
    with transaction.atomic():
        return _keep(ApiFile(team=team, purpose=purpose, name=_shown(name), created_by=actor.user), actor, parts)


def _keep(file: ApiFile, actor: Actor, parts: Iterable[bytes]) -> ApiFile:
    file.path.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    try:
        with file.path.open("xb") as target:
            for part in parts:
                digest.update(part)
                size += len(part)
                target.write(part)
        file.size_bytes, file.sha256 = size, digest.hexdigest()
        room = partial(usage.storage_bytes, file.team)
        quotas.require_room(file.team, Quota.STORAGE_BYTES, room, adding=size)
        problem = problem_of(file.path) if file.purpose in UPLOADED else ""
        file.status = ApiFile.Status.ERROR if problem else ApiFile.Status.PROCESSED
        file.status_details = problem[:300]
        file.save(force_insert=True)
        audit.record(file.team, actor, "file.uploaded", file, purpose=file.purpose, bytes=size)
    except BaseException:
        file.path.unlink(missing_ok=True)
        raise
    return file


def problem_of(path: Path) -> str:
    """Return why a JSONL file cannot be used, as far as its first lines tell; '' if they are in order."""
    for number, line in enumerate(lines_of(path), start=1):
        if number > LINES_CHECKED:
            break
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            return _("Line %(number)d is not valid JSON.") % {"number": number}
        if not isinstance(entry, dict):
            return _("Line %(number)d is not a JSON object.") % {"number": number}
    return ""


def lines_of(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file that hold something; one that is too long is cut, so that it is no JSON any more."""
    with path.open("rb") as file:
        first = True
        while line := file.readline(LONGEST_LINE_BYTES):
            line = line.removeprefix(b"\xef\xbb\xbf") if first else line
            first = False
            if line.strip():
                yield line


@transaction.atomic
def delete(*, file: ApiFile, actor: Actor, action: str = "file.deleted") -> None:
    """Delete a file; rows that were made from it stay. Raises: IllegalTransition while a job still reads it."""
    team = file.team
    reads = Q(training_file=file) | Q(validation_file=file)
    if (
        team.finetuningjobs.filter(reads, state=FineTuningJob.State.VALIDATING).exists()
        or team.batchjobs.filter(input_file=file, status__in=BatchJob.OPEN).exists()
    ):
        raise IllegalTransition(
            _("A job still reads this file. Wait until it has, or cancel the job."), code="file_in_use", param="file_id"
        )
    audit.record(team, actor, action, file, purpose=file.purpose)
    path = file.path
    team.apifiles.filter(pk=file.pk).delete()
    transaction.on_commit(partial(path.unlink, missing_ok=True))


def prune() -> int:
    """Delete the files whose time is up; return how many. Call it by the clock."""
    with all_teams("the clock looks after every team's files"):
        late = list(ApiFile.unscoped.filter(expires_at__lte=timezone.now()).select_related("team")[:1_000])
    for file in late:
        with team_scope(file.team_id), contextlib.suppress(IllegalTransition):
            delete(file=file, actor=MACHINE, action="file.expired")
    return len(late)


def as_object(file: ApiFile) -> dict[str, Any]:
    """Return a file as OpenAI's clients know it."""
    return {
        "id": file.public_id,
        "object": "file",
        "bytes": file.size_bytes,
        "created_at": int(file.created_at.timestamp()),
        "filename": file.name,
        "purpose": file.purpose,
        "status": file.status,
        "status_details": file.status_details or None,
        "expires_at": int(file.expires_at.timestamp()) if file.expires_at else None,
    }


def blocks(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield the content of a stream in pieces."""
    while block := stream.read(BLOCK_BYTES):
        yield block


def _end_of(expires_after_s: int | None) -> datetime | None:
    if expires_after_s is None:
        return None
    life = timedelta(seconds=expires_after_s)
    if not LEAST_LIFE <= life <= LONGEST_LIFE:
        raise InvalidInput(_("A file may live from 3,600 to 2,592,000 seconds."), param="expires_after[seconds]")
    return timezone.now() + life


def _shown(name: str) -> str:
    """Return a file's own name, fit to be shown: it is never used as a path."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(character for character in last if character.isprintable())[-255:] or "file"

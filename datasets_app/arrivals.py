"""Files that come in parts: announced, continued by whoever began them, complete with a hash, or out of time.

The announced size is counted against the team's storage before the first byte comes. How far an upload is says its
file, so a connection may break anywhere; a lock on the file lets only one part be written at a time.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import logging
import os
import time
from collections.abc import Container, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import IO, Final
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from datasets_app import deletion
from datasets_app.models import DatasetVersion, ResumableUpload
from portal import audit, quotas, usage
from portal.actors import Actor
from portal.display.numbers import filesize
from portal.errors import IllegalTransition, InvalidInput, PortalError, TooLarge
from portal.models import Quota, Team
from portal.rls import all_teams, team_scope

logger = logging.getLogger(__name__)

BLOCK_BYTES: Final = 1 << 16
# From the last part on.
KEPT_FOR: Final = timedelta(hours=24)
DRAFTS_KEPT_FOR: Final = timedelta(days=7)
UNMAPPED: Final = (DatasetVersion.Status.FETCHING, DatasetVersion.Status.DRAFT)
MAX_UNFINISHED: Final = 50
MACHINE: Final = Actor.system("upload")


class Locked(PortalError):
    """Another part of the same upload is being written."""

    code = "upload_locked"
    status = 423


class ChecksumMismatch(PortalError):
    """What came is not what was sent."""

    code = "checksum_mismatch"
    status = 460  # as the tus protocol has it


@transaction.atomic
def begin(*, team: Team, actor: Actor, name: str, size_bytes: int, sha256: str = "") -> ResumableUpload:
    """Announce a file. Raises: InvalidInput; TooLarge; QuotaExceeded; IllegalTransition for too many at once."""
    if size_bytes <= 0:
        raise InvalidInput(
            _("The file is empty. Choose a table with a header line and at least one row."), param="size"
        )
    if size_bytes > settings.MAX_DATASET_BYTES:
        limit = filesize(settings.MAX_DATASET_BYTES)
        raise TooLarge(_("The file is larger than %(limit)s. Split it into smaller ones.") % {"limit": limit})
    if sha256 and (len(sha256) != 64 or set(sha256) - set("0123456789abcdef")):
        raise InvalidInput(_("The sha256 must be 64 lower-case hexadecimal digits."), param="sha256")
    quotas.require_room(team, Quota.STORAGE_BYTES, lambda: usage.storage_bytes(team), adding=size_bytes, lock=True)
    if team.resumableuploads.filter(sha256="").count() >= MAX_UNFINISHED:
        raise IllegalTransition(_("The team has too many unfinished uploads. Finish or discard some first."))
    upload: ResumableUpload = team.resumableuploads.create(
        name=_shown(name),
        size_bytes=size_bytes,
        expected_sha256=sha256,
        expires_at=timezone.now() + KEPT_FOR,
        **_creator(actor),
    )
    upload.path.parent.mkdir(parents=True, exist_ok=True)
    upload.path.touch(exist_ok=False)
    audit.record(team, actor, "dataset.upload_started", upload, bytes=size_bytes)
    return upload


def own(team: Team, actor: Actor) -> QuerySet[ResumableUpload]:
    """Return the uploads that this actor began: nobody else may continue, use or discard them."""
    found: QuerySet[ResumableUpload] = team.resumableuploads.filter(**_creator(actor), expires_at__gt=timezone.now())
    return found.select_related("team")


def complete(own: QuerySet[ResumableUpload], pk: UUID, *, param: str) -> ResumableUpload:
    """Return one of the caller's uploads, ready to be imported. Raises: InvalidInput, naming `param`."""
    upload = own.filter(pk=pk).first()
    if upload is None:
        raise InvalidInput(_("There is no such upload, or its time is up. Upload the file again."), param=param)
    if not upload.is_complete:
        raise InvalidInput(_("This upload is not complete. Send the rest of it first."), param=param)
    return upload


def _creator(actor: Actor) -> dict[str, object]:
    account = actor.token.service_account if actor.token is not None else None
    return {"created_by": actor.user, "service_account": account}


def _shown(name: str) -> str:
    """Return the file's own name, fit to be shown and stored: it is never used as a path."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(character for character in last if character.isprintable())[-255:] or "file"


def append(upload: ResumableUpload, stream: IO[bytes], *, offset: int, checksum: bytes | None = None) -> int:
    """Write a part at its place and return how far the upload is now. What came before a break is kept.

    With a sha256 `checksum` a part is kept whole or not at all. No transaction is needed, and none should be open.
    Raises: Locked; IllegalTransition for another place than the next; ChecksumMismatch; OSError.
    """
    with _locked(upload) as file:
        here = file.seek(0, os.SEEK_END)
        if offset != here:
            raise IllegalTransition(
                _("The upload is at byte %(here)d, the part begins at %(offset)d.") % {"here": here, "offset": offset},
                code="offset_conflict",
            )
        digest = hashlib.sha256()
        try:
            for block in _blocks(stream, upload.size_bytes - here):
                digest.update(block)
                file.write(block)
        except OSError:
            if checksum is not None:
                file.truncate(here)
            raise
        if checksum is not None and digest.digest() != checksum:
            file.truncate(here)
            raise ChecksumMismatch(_("The part was damaged on its way. Send it again."))
        file.flush()
        return file.seek(0, os.SEEK_END)


@contextmanager
def _locked(upload: ResumableUpload) -> Iterator[IO[bytes]]:
    with upload.path.open("r+b", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Locked(_("Another part of this upload is being written. Try again in a moment.")) from None
        yield file


def _blocks(stream: IO[bytes], at_most: int) -> Iterator[bytes]:
    while at_most and (block := stream.read(min(BLOCK_BYTES, at_most))):
        at_most -= len(block)
        yield block


def prolong(upload: ResumableUpload) -> bool:
    """Let an upload live on: a part of it came. Return whether it is still there. Call it in the team's row scope."""
    upload.expires_at = timezone.now() + KEPT_FOR
    return bool(ResumableUpload.unscoped.filter(pk=upload.pk).update(expires_at=upload.expires_at))


def digest_of(upload: ResumableUpload) -> str:
    """Return the sha256 of what came, once it is on disk."""
    with upload.path.open("rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


@transaction.atomic
def finish(*, upload: ResumableUpload, actor: Actor, sha256: str) -> None:
    """Note that an upload is complete, with the hash of what came."""
    if ResumableUpload.unscoped.filter(pk=upload.pk, sha256="").update(sha256=sha256):
        upload.sha256 = sha256
        audit.record(upload.team, actor, "dataset.upload_finished", upload, sha256=sha256)


def is_as_announced(upload: ResumableUpload, sha256: str) -> bool:
    """Return whether the hash is the one that the sender announced, if any."""
    return upload.expected_sha256 in ("", sha256)


@transaction.atomic
def discard(*, upload: ResumableUpload, actor: Actor) -> None:
    """Throw an upload away."""
    audit.record(upload.team, actor, "dataset.upload_discarded", upload)
    _remove(upload)


def hand_over(upload: ResumableUpload) -> None:
    """Forget an upload whose bytes an import has taken over; if the import fails after all, it is still there."""
    _remove(upload)


def _remove(upload: ResumableUpload) -> None:
    path = upload.path
    ResumableUpload.unscoped.filter(pk=upload.pk).delete()
    transaction.on_commit(partial(path.unlink, missing_ok=True))


def prune() -> int:
    """Throw away uploads whose time is up, and drafts that nobody has mapped; return how many. Call it by the clock."""
    with all_teams("the clock looks after every team's uploads"):
        now = timezone.now()
        late = list(ResumableUpload.unscoped.filter(expires_at__lte=now).select_related("team"))
        drafts = list(
            DatasetVersion.unscoped.filter(status__in=UNMAPPED, created_at__lte=now - DRAFTS_KEPT_FOR).select_related(
                "team", "dataset"
            )
        )
        known = {str(pk) for pk in ResumableUpload.unscoped.values_list("pk", flat=True)}
    orphans = _remove_orphans(known)
    for upload in late:
        with team_scope(upload.team_id):
            discard(upload=upload, actor=MACHINE)
    pruned = sum(_prune_draft(draft) for draft in drafts)
    return len(late) + pruned + orphans


def _remove_orphans(known: Container[str]) -> int:
    """Remove files whose upload is gone: a process died between the end of its row and that of its file."""
    removed = 0
    for path in (settings.DATA_DIR / "teams").glob("*/uploads/*.bin"):
        if path.stem not in known and time.time() - path.stat().st_mtime > KEPT_FOR.total_seconds():
            path.unlink(missing_ok=True)
            removed += 1
    return removed


def _prune_draft(draft: DatasetVersion) -> bool:
    """Discard a draft, unless somebody has mapped it since it was looked up."""
    with team_scope(draft.team_id):
        return deletion.discard_version(version=draft, actor=MACHINE, only=UNMAPPED)


def checksum_of(header: str) -> bytes:
    """Return the sha256 of an Upload-Checksum header. Raises: InvalidInput for another algorithm or nonsense."""
    algorithm, _space, encoded = header.partition(" ")
    try:
        digest = base64.b64decode(encoded, validate=True)
    except ValueError:
        digest = b""
    if algorithm != "sha256" or len(digest) != 32:
        raise InvalidInput(_("Send the checksum as “sha256 <base64>”."), param="Upload-Checksum")
    return digest

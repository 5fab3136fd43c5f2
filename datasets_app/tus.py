"""The tus 1.0.0 protocol of resumable uploads: headers in, headers out; the rules are in `arrivals`.

Spoken: core, creation, expiration, checksum (sha256) and termination. Every request is authorised anew by its door,
and finds only uploads that the same caller began.
"""

from __future__ import annotations

import base64
import binascii
import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import IO, Any, Final, cast
from uuid import UUID

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse, UnreadablePostError
from django.utils.http import http_date
from django.utils.translation import gettext as _

from datasets_app import arrivals
from datasets_app.arrivals import ChecksumMismatch
from datasets_app.models import ResumableUpload
from portal.actors import Actor
from portal.errors import InvalidInput, PortalError, TooLarge, Unavailable, error_body
from portal.models import Team
from portal.rls import team_scope

VERSION: Final = "1.0.0"
PART_TYPE: Final = "application/offset+octet-stream"
LONGEST_METADATA: Final = 4096
SILENCE_S: Final = 30

Address = Callable[[UUID], str]


class _Refused(PortalError):
    """The request is not what the protocol asks for; `status` says how."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message, code="tus")
        self.status = status


def options() -> HttpResponse:
    """Say what is spoken here."""
    return _answer(
        HTTPStatus.NO_CONTENT,
        {
            "Tus-Version": VERSION,
            "Tus-Extension": "creation,expiration,checksum,termination",
            "Tus-Checksum-Algorithm": "sha256",
            "Tus-Max-Size": str(settings.MAX_DATASET_BYTES),
        },
    )


def create(request: HttpRequest, team: Team, actor: Actor, address: Address) -> HttpResponse:
    """Begin an upload of the announced length; its address is in Location."""
    try:
        _check_version(request)
        length, metadata = _number(request, "Upload-Length"), _metadata(request.headers.get("Upload-Metadata", ""))
        name, sha256 = metadata.get("filename", ""), metadata.get("sha256", "")
        with team_scope(team.pk):
            upload = arrivals.begin(team=team, actor=actor, name=name, size_bytes=length, sha256=sha256)
    except PortalError as error:
        return _refusal(error)
    return _answer(HTTPStatus.CREATED, {"Location": address(upload.pk), **_times(upload)})


def head(request: HttpRequest, team: Team, actor: Actor, pk: UUID) -> HttpResponse:
    """Say how far an upload is."""
    upload = _found(team, actor, pk)
    try:
        _check_version(request)
    except PortalError as error:
        return _refusal(error)
    return _answer(HTTPStatus.OK, _standing(upload, upload.received_bytes))


@contextmanager
def _impatient(request: HttpRequest) -> Iterator[None]:
    """Give up on a sender who went away without a word: its part would keep the upload locked for hours."""
    connection = request.META.get("gunicorn.socket")
    if connection is None:
        yield
        return
    connection.settimeout(SILENCE_S)
    try:
        yield
    finally:
        connection.settimeout(None)


def patch(request: HttpRequest, team: Team, actor: Actor, pk: UUID) -> HttpResponse:
    """Take the next part of an upload; with the last one it is complete and hashed."""
    upload = _found(team, actor, pk)
    try:
        with _impatient(request):
            offset = _take_part(request, upload)
        with team_scope(team.pk):
            if not arrivals.prolong(upload):
                raise Http404
        if offset == upload.size_bytes and not upload.is_complete:
            _complete(upload, team, actor)
    except PortalError as error:
        return _refusal(error)
    except UnreadablePostError:  # nobody listens any more; what came is kept
        return _answer(HTTPStatus.BAD_REQUEST, {})
    except FileNotFoundError:  # thrown away meanwhile
        raise Http404 from None
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return _refusal(Unavailable(_("The disk is full. Ask an admin to make room, then try again.")))
    return _answer(HTTPStatus.NO_CONTENT, _standing(upload, offset))


def delete(request: HttpRequest, team: Team, actor: Actor, pk: UUID) -> HttpResponse:
    """Throw an upload away."""
    upload = _found(team, actor, pk)
    try:
        _check_version(request)
    except PortalError as error:
        return _refusal(error)
    with team_scope(team.pk):
        arrivals.discard(upload=upload, actor=actor)
    return _answer(HTTPStatus.NO_CONTENT, {})


def _found(team: Team, actor: Actor, pk: UUID) -> ResumableUpload:
    with team_scope(team.pk):
        upload = arrivals.own(team, actor).filter(pk=pk).first()
    if upload is None or not upload.path.exists():
        raise Http404
    upload.team = team
    return upload


def _take_part(request: HttpRequest, upload: ResumableUpload) -> int:
    _check_version(request)
    if request.content_type != PART_TYPE:
        raise _Refused(415, _("Send a part as %(type)s.") % {"type": PART_TYPE})
    offset = _number(request, "Upload-Offset")
    coming = request.META.get("CONTENT_LENGTH") or "0"
    if coming.isdigit() and offset == upload.received_bytes and offset + int(coming) > upload.size_bytes:
        raise TooLarge(_("The part goes beyond the announced end of the file."))
    sent = request.headers.get("Upload-Checksum", "")
    checksum = arrivals.checksum_of(sent) if sent else None
    return arrivals.append(upload, cast(IO[bytes], request), offset=offset, checksum=checksum)


def _complete(upload: ResumableUpload, team: Team, actor: Actor) -> None:
    sha256 = arrivals.digest_of(upload)
    with team_scope(team.pk):
        if arrivals.is_as_announced(upload, sha256):
            arrivals.finish(upload=upload, actor=actor, sha256=sha256)
            return
        arrivals.discard(upload=upload, actor=actor)
    raise ChecksumMismatch(_("The file is not the one that was announced: its SHA-256 differs. Upload it again."))


def _check_version(request: HttpRequest) -> None:
    if request.headers.get("Tus-Resumable") != VERSION:
        raise _Refused(412, _("Send the header Tus-Resumable: %(version)s.") % {"version": VERSION})


def _number(request: HttpRequest, name: str) -> int:
    text = request.headers.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise InvalidInput(_("The header %(name)s must be a whole number.") % {"name": name}, param=name)
    return int(text)


def _metadata(header: str) -> dict[str, str]:
    """Return the pairs of an Upload-Metadata header: "key base64,key base64"."""
    found = {}
    try:
        for pair in header[:LONGEST_METADATA].split(","):
            key, _space, encoded = pair.strip().partition(" ")
            found[key] = base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, ValueError):
        raise InvalidInput(_("The header Upload-Metadata cannot be read."), param="Upload-Metadata") from None
    return found


def _standing(upload: ResumableUpload, offset: int) -> dict[str, str]:
    headers = {"Upload-Offset": str(offset), "Upload-Length": str(upload.size_bytes), **_times(upload)}
    return headers | ({"Upload-Sha256": upload.sha256} if upload.is_complete else {})


def _times(upload: ResumableUpload) -> dict[str, str]:
    return {"Upload-Expires": http_date(upload.expires_at.timestamp())}


def _answer(status: int, headers: dict[str, str]) -> HttpResponse:
    return HttpResponse(status=status, headers={"Tus-Resumable": VERSION, "Cache-Control": "no-store", **headers})


def _refusal(error: PortalError) -> HttpResponse:
    body: dict[str, Any] = error_body(error.message, kind=error.kind, code=error.code, param=error.param)
    headers = {"Tus-Resumable": VERSION, "Cache-Control": "no-store", **error.headers}
    if error.status == 412:
        headers["Tus-Version"] = VERSION
    return JsonResponse(body, status=error.status, headers=headers)

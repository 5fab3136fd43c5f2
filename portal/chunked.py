"""Bodies that come in chunks, of a length that nobody told: WSGI knows told lengths only, so Django reads nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from typing import Any, cast

from django.conf import settings
from django.core.handlers.wsgi import LimitedStream
from django.http import HttpRequest
from django.utils.translation import gettext as _

from portal.errors import PortalError, TooLarge

MULTIPART_SLACK_BYTES = 1024 * 1024  # of a form around a file of the largest size
_PIECE_BYTES = 65536
_IN_MEMORY_BYTES = 1024 * 1024


def is_chunked(meta: Mapping[str, Any]) -> bool:
    """Whether a body comes whose length was not told, from a server that tells where it ends."""
    return bool(meta.get("HTTP_TRANSFER_ENCODING") and meta.get("wsgi.input_terminated")) and not meta.get(
        "CONTENT_LENGTH"
    )


def take(request: HttpRequest, *, most_bytes: int) -> None:
    """Read a body that comes in chunks, so that the request is from now on as if its length had been told.

    Nothing happens to other requests. Raises: TooLarge, PortalError for a body that does not come to its end.
    """
    if not is_chunked(request.META):
        return
    length = 0
    spooled = tempfile.SpooledTemporaryFile(  # noqa: SIM115 -- it lives as long as the request
        max_size=_IN_MEMORY_BYTES, dir=str(settings.FILE_UPLOAD_TEMP_DIR)
    )
    try:
        while piece := request.META["wsgi.input"].read(_PIECE_BYTES):
            length += len(piece)
            if length > most_bytes:
                raise TooLarge(_("The body of the request is larger than %(most)d MB.") % {"most": most_bytes >> 20})
            spooled.write(piece)
    except OSError:
        raise PortalError(_("The body of the request did not come to its end.")) from None
    spooled.seek(0)
    request.META["CONTENT_LENGTH"] = str(length)
    request._stream = LimitedStream(cast(Any, spooled), length)  # type: ignore[assignment]

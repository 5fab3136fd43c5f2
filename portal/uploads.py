"""Uploads: written to disk while they arrive, counted, and cut off at the limit."""

from __future__ import annotations

from django.conf import settings
from django.core.files.uploadhandler import StopUpload, TemporaryFileUploadHandler
from django.http import HttpRequest

_MARK = "tuneport.oversize_file"


class BoundedTemporaryFileHandler(TemporaryFileUploadHandler):
    """Django's handler for files on disk, which stops reading once a file is over MAX_UPLOAD_BYTES.

    Django then hands over a request without the file, as if none had been sent; the mark tells it from that.
    """

    def receive_data_chunk(self, raw_data: bytes, start: int) -> None:
        if start + len(raw_data) > settings.MAX_UPLOAD_BYTES:
            if self.request is not None:
                self.request.META[_MARK] = True
            raise StopUpload(connection_reset=True)
        super().receive_data_chunk(raw_data, start)


def has_oversize_file(request: HttpRequest) -> bool:
    """Return whether a file was cut off at the limit; known once the files have been asked for."""
    return bool(request.META.get(_MARK))

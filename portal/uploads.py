"""Uploads: written to disk while they arrive, counted, and cut off at the limit."""

from __future__ import annotations

from django.conf import settings
from django.core.files.uploadhandler import StopUpload, TemporaryFileUploadHandler


class BoundedTemporaryFileHandler(TemporaryFileUploadHandler):
    """Django's handler for files on disk, which stops reading once a file is over MAX_UPLOAD_BYTES."""

    def receive_data_chunk(self, raw_data: bytes, start: int) -> None:
        if start + len(raw_data) > settings.MAX_UPLOAD_BYTES:
            raise StopUpload(connection_reset=True)
        super().receive_data_chunk(raw_data, start)

"""Downloads of whole folders."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from django.http import FileResponse


def folder_response(folder: Path, name: str, more: Mapping[str, str] | None = None) -> FileResponse:
    """Return the files of `folder` as a ZIP attachment called `name` (stored, since weights do not compress).

    `more`: texts by their file names, put beside them.
    """
    archive = tempfile.TemporaryFile()  # noqa: SIM115 — the response closes it when it was sent
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as bundle:
        for file in sorted(folder.iterdir()):
            if file.is_file():
                bundle.write(file, file.name)
        for added, text in (more or {}).items():
            bundle.writestr(added, text)
    archive.seek(0)
    return FileResponse(archive, as_attachment=True, filename=name, content_type="application/zip")

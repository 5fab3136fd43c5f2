"""A file at an address of the web."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx

from datasets_app.remote.base import RemoteFile
from datasets_app.remote.spec import without_query
from portal import outbound
from portal.outbound import Progress


class WebFile:
    """One file behind an https address."""

    def __init__(self, source: Mapping[str, str], secret: str, http: httpx.Client) -> None:
        self._url, self._http = source["url"], http

    def files(self) -> Sequence[RemoteFile]:
        """Return the one file."""
        name = unquote(urlsplit(self._url).path.rpartition("/")[2]) or urlsplit(self._url).hostname or "file"
        return [RemoteFile(key=self._url, name=name, address=without_query(self._url))]

    def fetch(self, file: RemoteFile, path: Path, *, max_bytes: int, max_seconds: float, progress: Progress) -> str:
        """Write the file; its revision is the tag or date that the server gives it."""
        got = outbound.download(
            self._http, file.key, path, max_bytes=max_bytes, max_seconds=max_seconds, progress=progress
        )
        tag = got.headers.get("etag") or got.headers.get("last-modified") or ""
        return re.sub(r'^W/|"', "", tag)[:200]

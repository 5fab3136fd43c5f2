"""Data sets of Kaggle, over its web interface: a name is checked and put into an address, no program is called."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote

import httpx
from django.conf import settings
from django.utils.translation import gettext as _

from datasets_app.remote.base import RemoteFile, two_parts
from portal import outbound
from portal.outbound import Progress
from portal.reachable import OutboundFailed

MAX_ANSWER_BYTES: Final = 4 << 20


class KaggleDataset:
    """A data set as one archive, or one of its files, at one version."""

    def __init__(self, source: Mapping[str, str], secret: str, http: httpx.Client) -> None:
        self._source, self._http = source, http
        self._auth, self._headers = _credential(secret)

    def files(self) -> Sequence[RemoteFile]:
        """Return the one file to fetch, with the number of its version."""
        name, file = self._source["dataset"], self._source["file"]
        version = self._source["version"] or self._current()
        place = f"{name}/{quote(file)}" if file else name
        key = f"{settings.KAGGLE_ENDPOINT}/datasets/download/{place}?datasetVersionNumber={version}"
        shown = file.rpartition("/")[2] or f"{name.rpartition('/')[2]}.zip"
        return [RemoteFile(key, shown, f"{name}/{file}".rstrip("/"), revision=f"version {version}")]

    def _current(self) -> str:
        url = f"{settings.KAGGLE_ENDPOINT}/datasets/view/{self._source['dataset']}"
        answer = outbound.get(self._http, url, max_bytes=MAX_ANSWER_BYTES, auth=self._auth, headers=self._headers)
        outbound.require_success(answer)
        try:
            number = answer.json()["currentVersionNumber"]
        except (ValueError, KeyError, TypeError):
            number = None
        if not isinstance(number, int):
            raise OutboundFailed(
                _("Kaggle answers in a way that is not understood. Name the version, or try again later."),
                code="source_error",
            )
        return str(number)

    def fetch(self, file: RemoteFile, path: Path, *, max_bytes: int, max_seconds: float, progress: Progress) -> str:
        """Write the archive or file; the credential does not follow a redirect to another host."""
        outbound.download(
            self._http, file.key, path, max_bytes=max_bytes, max_seconds=max_seconds, progress=progress,
            auth=self._auth, headers=self._headers,
        )  # fmt: skip
        return file.revision


def _credential(secret: str) -> tuple[tuple[str, str] | None, dict[str, str]]:
    """Return (user, key) or a bearer header: the text may be user:key, a kaggle.json or a token of the newer kind."""
    text = secret.strip()
    if not text:
        return None, {}
    if text.startswith("KGAT_"):
        return None, {"Authorization": f"Bearer {text}"}
    if text.startswith("{"):
        try:
            stored = json.loads(text)
            text = f"{stored['username']}:{stored['key']}"
        except (ValueError, KeyError, TypeError):
            text = ""
    return two_parts(text, "user:key"), {}

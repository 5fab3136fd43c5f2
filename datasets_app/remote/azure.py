"""Blobs of Azure storage, over its REST interface: by a shared access signature, an account key, or public."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from email.utils import formatdate
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit
from xml.etree import ElementTree

import httpx
from django.utils.translation import gettext as _

from datasets_app.remote.base import MOST_LISTED, RemoteFile, few_enough, split_by_name, tables_among
from portal import outbound, reachable
from portal.errors import InvalidInput
from portal.outbound import Progress
from portal.reachable import OutboundFailed

API_VERSION: Final = "2021-12-02"
MAX_ANSWER_BYTES: Final = 16 << 20
# Where a signature may be sent: to Azure itself, in its four clouds. Endpoints of one's own are the admin's to allow.
PUBLIC_SUFFIX: Final = "blob.core.windows.net"


class AzureBlobs:
    """A blob, or all tables below a folder, of one container."""

    def __init__(self, source: Mapping[str, str], secret: str, http: httpx.Client) -> None:
        self._source, self._http = source, http
        self._base = _base(source)
        self._signature, self._key = _credential(secret)

    def files(self) -> Sequence[RemoteFile]:
        """Return the blob, or the tables of the folder."""
        blob = self._source["blob"]
        found = self._listed(blob)
        if not blob.endswith("/"):
            if blob not in found:
                raise OutboundFailed(_("There is no such blob. Check how it is written."), code="source_not_found")
            return [self._file(blob, *found[blob])]
        return few_enough([self._file(name, *found[name], split=True) for name in tables_among(list(found))])

    def _listed(self, prefix: str) -> dict[str, tuple[int, str]]:
        found: dict[str, tuple[int, str]] = {}
        marker = ""
        while len(found) <= MOST_LISTED:
            query = {"restype": "container", "comp": "list", "prefix": prefix}
            query |= {"marker": marker} if marker else {}
            url, headers = self._signed(self._source["container"], query)
            answer = outbound.get(self._http, url, max_bytes=MAX_ANSWER_BYTES, headers=headers)
            outbound.require_success(answer)
            page = _parsed(answer.content)
            for one in page.iter("Blob"):
                name, size = one.findtext("Name"), one.findtext("Properties/Content-Length")
                if name and size and size.isdigit():
                    found[name] = (int(size), (one.findtext("Properties/Etag") or "").strip('"'))
            marker = page.findtext("NextMarker") or ""
            if not marker:
                break
        return found

    def _file(self, blob: str, size_bytes: int, tag: str, split: bool = False) -> RemoteFile:
        name = blob.rpartition("/")[2]
        chosen = {"split": split_by_name(name)} if split else {}
        address = f"{self._base}/{self._source['container']}/{blob}"
        return RemoteFile(blob, name, address, size_bytes=size_bytes, revision=tag, **chosen)

    def fetch(self, file: RemoteFile, path: Path, *, max_bytes: int, max_seconds: float, progress: Progress) -> str:
        """Write one blob."""
        url, headers = self._signed(f"{self._source['container']}/{quote(file.key)}", {})
        outbound.download(
            self._http, url, path, max_bytes=max_bytes, max_seconds=max_seconds, progress=progress, headers=headers
        )
        return file.revision

    def _signed(self, place: str, query: dict[str, str]) -> tuple[str, dict[str, str]]:
        """Return the address of a request and its headers, signed in the way that the credential asks for."""
        headers = {"x-ms-version": API_VERSION, "x-ms-date": formatdate(usegmt=True)}
        if self._key:
            path = urlsplit(f"{self._base}/{place}").path
            headers["Authorization"] = self._authorization(path, query, headers)
        url = f"{self._base}/{place}"
        full = {**query, **dict(parse_qsl(self._signature))}
        return f"{url}?{urlencode(full, quote_via=quote)}" if full else url, headers

    def _authorization(self, path: str, query: dict[str, str], headers: dict[str, str]) -> str:
        account = self._source["account"]
        canonical = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
        resource = f"/{account}{path}" + "".join(f"\n{name}:{query[name]}" for name in sorted(query))
        text = "GET" + "\n" * 12 + canonical + resource
        digest = hmac.new(self._key, text.encode(), hashlib.sha256).digest()
        return f"SharedKey {account}:{base64.b64encode(digest).decode()}"


def _base(source: Mapping[str, str]) -> str:
    endpoint = source["endpoint"].rstrip("/")
    if not endpoint:
        return f"https://{source['account']}.{PUBLIC_SUFFIX}"
    host, port = urlsplit(endpoint).hostname or "", urlsplit(endpoint).port or 443
    is_azure = re.fullmatch(r"[a-z0-9]+\.blob\.core\.(windows\.net|usgovcloudapi\.net|chinacloudapi\.cn)", host)
    if not is_azure and not reachable.is_listed(host, port):
        message = _(
            "Signatures are sent to Azure only. For an endpoint of your own ask a platform admin to add it to "
            "TUNEPORT_OUTBOUND_ALLOW."
        )
        raise InvalidInput(message, param="source.endpoint", code="address_refused")
    return endpoint


def _credential(secret: str) -> tuple[str, bytes]:
    """Return (query of a shared access signature, b"") or ("", account key). Raises: InvalidInput."""
    text = secret.strip().lstrip("?")
    if not text:
        return "", b""
    if "sig=" in text and "&" in text:
        return text, b""
    try:
        return "", base64.b64decode(text, validate=True)
    except ValueError:
        message = _("The secret must be a shared access signature (sv=…&sig=…) or an account key. Store it again.")
        raise InvalidInput(message, param="source.secret", code="secret_malformed") from None


def _parsed(content: bytes) -> ElementTree.Element:
    # A list has no document type; one that has wants entities to be expanded.
    if b"<!" in content:
        raise _strange()
    try:
        return ElementTree.fromstring(content)  # noqa: S314 — no entities, and bounded
    except ElementTree.ParseError:
        raise _strange() from None


def _strange() -> OutboundFailed:
    return OutboundFailed(
        _("The storage answers in a way that is not understood. Check account and endpoint."), code="source_error"
    )

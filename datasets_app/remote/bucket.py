"""Files in a bucket of S3, or of a service that speaks its language.

boto3 knows the signatures, regions and addressing styles; what it sends goes through our own guarded client.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import boto3
import httpx
from botocore import UNSIGNED
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import Session
from django.utils.translation import gettext as _

from datasets_app.remote.base import MOST_LISTED, RemoteFile, few_enough, split_by_name, tables_among, two_parts
from portal import outbound
from portal.outbound import Progress
from portal.reachable import OutboundFailed

BLOCK_BYTES: Final = 1 << 18
# Lists and errors are held whole.
MAX_ANSWER_BYTES: Final = 16 << 20
ACCESS_CODES: Final = frozenset(
    {
        "401",
        "403",
        "AccessDenied",
        "AllAccessDisabled",
        "AuthFailure",
        "ExpiredToken",
        "Forbidden",
        "InvalidAccessKeyId",
    }
    | {"InvalidToken", "SignatureDoesNotMatch", "UnauthorizedAccess"}
)
MISSING_CODES: Final = frozenset({"404", "NoSuchBucket", "NoSuchKey", "NotFound", "NoSuchVersion"})
REGION_CODES: Final = frozenset(
    {
        "301",
        "307",
        "PermanentRedirect",
        "TemporaryRedirect",
        "AuthorizationHeaderMalformed",
        "IllegalLocationConstraintException",
    }
)


class Bucket:
    """A key, or all tables below a folder, of one bucket."""

    def __init__(self, source: Mapping[str, str], secret: str, http: httpx.Client) -> None:
        self._source, self._http = source, http
        self._client = _client(source, secret, http)

    def files(self) -> Sequence[RemoteFile]:
        """Return the file of the key, or the tables of the folder."""
        with _heard():
            return few_enough(self._below() if self._source["key"].endswith("/") else [self._single()])

    def _single(self) -> RemoteFile:
        bucket, key = self._source["bucket"], self._source["key"]
        head = self._client.head_object(Bucket=bucket, Key=key)
        return self._file(key, head["ContentLength"], head["ETag"])

    def _below(self) -> list[RemoteFile]:
        found: dict[str, tuple[int, str]] = {}
        pages = self._client.get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=self._source["bucket"], Prefix=self._source["key"]):
            found |= {one["Key"]: (one["Size"], one["ETag"]) for one in page.get("Contents", [])}
            if len(found) > MOST_LISTED:
                break
        return [self._file(key, *found[key], split=True) for key in tables_among(list(found))]

    def _file(self, key: str, size_bytes: int, tag: str, split: bool = False) -> RemoteFile:
        name = key.rpartition("/")[2]
        chosen = {"split": split_by_name(name)} if split else {}
        address = f"s3://{self._source['bucket']}/{key}"
        return RemoteFile(key, name, address, size_bytes=size_bytes, revision=tag.strip('"'), **chosen)

    def fetch(self, file: RemoteFile, path: Path, *, max_bytes: int, max_seconds: float, progress: Progress) -> str:
        """Write one object, as it was when it was listed."""
        ends_s, done = time.monotonic() + max_seconds, 0
        with _heard(), outbound.heard_as_sentences(self._source["endpoint"]):
            got = self._client.get_object(Bucket=self._source["bucket"], Key=file.key, IfMatch=file.revision)
            with path.open("xb") as out:
                for block in got["Body"].iter_chunks(BLOCK_BYTES):
                    done += len(block)
                    if done > max_bytes:
                        raise outbound.too_large(max_bytes)
                    if time.monotonic() > ends_s:
                        raise outbound.too_slow()
                    out.write(block)
                    progress(done, file.size_bytes)
        return str(got.get("VersionId") or file.revision)


def _client(source: Mapping[str, str], secret: str, http: httpx.Client) -> Any:
    keys: dict[str, str] = {}
    if secret:
        name, key = two_parts(secret, "ACCESS_KEY_ID:SECRET_ACCESS_KEY")
        keys = {"aws_access_key_id": name, "aws_secret_access_key": key}
    config = Config(
        signature_version=None if keys else UNSIGNED,
        s3={"addressing_style": "path" if source["endpoint"] else "auto"},
        retries={"max_attempts": 2},
        proxies={},
        ignore_configured_endpoint_urls=True,
        user_agent="Tuneport",
    )
    session = boto3.session.Session(botocore_session=_plain_session())
    client = session.client(
        "s3", region_name=source["region"], endpoint_url=source["endpoint"] or None, config=config, **keys
    )
    client.meta.events.register("before-send.s3", _Sender(http))
    return client


def _plain_session() -> Session:
    """Return a session that neither reads the machine's own credentials nor its profiles."""
    session = Session(profile=None)
    for name in ("profile", "config_file", "credentials_file"):
        session.set_config_variable(name, "" if name != "profile" else None)
    return session


class _Sender:
    """Sends in place of botocore, through the guard; redirects are botocore's own matter."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def __call__(self, request: Any, **_ignored: Any) -> AWSResponse:
        headers = {_text(name): _text(value) for name, value in request.headers.items()}
        with outbound.heard_as_sentences(request.url):
            made = self._http.build_request(request.method, request.url, headers=headers, content=request.body or b"")
            answer = self._http.send(made, stream=True, follow_redirects=False)
        return AWSResponse(request.url, answer.status_code, dict(answer.headers), _Raw(answer))


class _Raw:
    """The body of an answer as botocore wants to read it."""

    def __init__(self, answer: httpx.Response) -> None:
        self._answer, self._blocks, self._rest = answer, answer.iter_raw(BLOCK_BYTES), b""

    def read(self, amount: int | None = None) -> bytes:
        """Return up to `amount` bytes, all that is left without it."""
        if amount is None:
            return b"".join(self.stream())
        while not self._rest and (block := next(self._blocks, None)) is not None:
            self._rest = block
        taken, self._rest = self._rest[:amount], self._rest[amount:]
        return taken

    def stream(self, amount: int = 0, **_ignored: Any) -> Iterator[bytes]:
        """Yield the rest of an answer that is held whole, and close it."""
        done = 0
        for block in (self._rest, *self._blocks) if self._rest else self._blocks:
            if (done := done + len(block)) > MAX_ANSWER_BYTES:
                raise outbound.too_large(MAX_ANSWER_BYTES)
            yield block
        self.close()

    def close(self) -> None:
        """Let the connection go."""
        self._answer.close()


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


class _heard:  # noqa: N801 — a context manager, used like a function
    """Turn what boto3 raises into sentences; its own words may quote keys."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ClientError):
            raise _refusal(str(error.response.get("Error", {}).get("Code", ""))) from None
        if isinstance(error, (BotoCoreError, ValueError)):
            raise OutboundFailed(
                _("The bucket's service answers in a way that is not understood. Check endpoint and region."),
                code="source_error",
            ) from None


def _refusal(code: str) -> OutboundFailed:
    if code in ACCESS_CODES:
        message = _("The bucket's service refuses access. Check the key, and that it may list and read this bucket.")
        return OutboundFailed(message, code="access_refused")
    if code in MISSING_CODES:
        message = _("There is no such bucket or key. Check how both are written, and the region.")
        return OutboundFailed(message, code="source_not_found")
    if code in REGION_CODES:
        return OutboundFailed(_("The bucket lies in another region. Check the region."), code="source_region")
    if code in ("412", "PreconditionFailed"):
        return OutboundFailed(_("The file was changed while it was fetched. Try again."), code="source_changed")
    return OutboundFailed(_("The bucket's service answers with an error. Try again later."), code="source_error")

"""Small servers on this machine that answer as the hub, Kaggle, Azure and the web do. They are simulated: what they
know is what their documentation says, and each notes what it was asked."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class Answer:
    """What a path is answered with."""

    content: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


class Loopback(http.server.BaseHTTPRequestHandler):
    """Answers by a function from (path, query, headers)."""

    answering: Any
    asked: list[tuple[str, dict[str, str]]]

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.asked.append((self.path, headers))
        answer = self.answering(unquote(parts.path), {k: v[0] for k, v in parse_qs(parts.query).items()}, headers)
        self.send_response(answer.status)
        for name, value in {"Content-Length": str(len(answer.content)), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.content)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@dataclass
class Serving:
    """A server at work."""

    url: str
    asked: list[tuple[str, dict[str, str]]]

    @property
    def paths(self) -> list[str]:
        """What was asked, without queries."""
        return [urlsplit(path).path for path, _headers in self.asked]


@contextmanager
def serving(answering: Any) -> Iterator[Serving]:
    """Serve on a free port of this machine until the block ends."""
    asked: list[tuple[str, dict[str, str]]] = []
    handler = type("Handler", (Loopback,), {"answering": staticmethod(answering), "asked": asked})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield Serving(f"http://127.0.0.1:{server.server_port}", asked)
    finally:
        server.shutdown()
        server.server_close()


COMMIT = "0123456789abcdef0123456789abcdef01234567"
LATER = "f" * 40


class SimulatedHub:
    """Data sets by name: files by path, for each commit; gated ones want the token."""

    def __init__(self, files: dict[str, bytes], *, card: dict[str, Any] | None = None, token: str = "") -> None:
        self.files, self.card, self.token, self.head = files, card or {}, token, COMMIT
        self.commits = {COMMIT: files}

    def __call__(self, path: str, query: dict[str, str], headers: dict[str, str]) -> Answer:
        if self.token and headers.get("authorization") != f"Bearer {self.token}":
            return Answer(b"Access to dataset is restricted", 403 if "/resolve/" not in path else 401)
        parts = path.strip("/").split("/")
        if path.startswith("/api/datasets/team/tickets/revision/"):
            revision = {"main": self.head}.get(parts[-1], parts[-1])
            if revision not in self.commits:
                return Answer(b"{}", 404)
            return Answer(json.dumps({"sha": revision, "cardData": self.card}).encode())
        if path.startswith("/api/datasets/team/tickets/tree/"):
            files = self.commits[parts[-1]]
            listed = [{"type": "directory", "path": "data"}]
            for name, content in files.items():
                lfs = {"lfs": {"oid": hashlib.sha256(content).hexdigest()}} if name.endswith(".parquet") else {}
                listed.append({"type": "file", "path": name, "size": len(content), **lfs})
            return Answer(json.dumps(listed).encode())
        if path.startswith("/datasets/team/tickets/resolve/"):
            return Answer(self.commits[parts[4]]["/".join(parts[5:])])
        return Answer(b"Repository not found", 401)


class SimulatedKaggle:
    """One data set of two versions, for those with the right key."""

    def __init__(self, archives: dict[str, bytes], auth: str) -> None:
        self.archives, self.auth = archives, auth

    def __call__(self, path: str, query: dict[str, str], headers: dict[str, str]) -> Answer:
        if headers.get("authorization") != "Basic " + base64.b64encode(self.auth.encode()).decode():
            return Answer(b'{"code":401,"message":"Unauthenticated"}', 401)
        if path == "/datasets/view/team/tickets":
            return Answer(json.dumps({"currentVersionNumber": len(self.archives)}).encode())
        if path == "/datasets/download/team/tickets":
            return Answer(self.archives[query["datasetVersionNumber"]])
        return Answer(b"{}", 404)


class SimulatedAzure:
    """One container; asks for the account key's signature, or for a shared access signature."""

    def __init__(self, blobs: dict[str, bytes], *, key: bytes = b"", signature: str = "") -> None:
        self.blobs, self.key, self.signature = blobs, key, signature

    def __call__(self, path: str, query: dict[str, str], headers: dict[str, str]) -> Answer:
        if self.signature and query.get("sig") != self.signature:
            return Answer(b"<Error><Code>AuthenticationFailed</Code></Error>", 403)
        if self.key and headers.get("authorization") != self._expected(path, query, headers):
            return Answer(b"<Error><Code>AuthenticationFailed</Code></Error>", 403)
        if query.get("comp") == "list":
            found = sorted(name for name in self.blobs if name.startswith(query.get("prefix", "")))
            start = int(query.get("marker", "0"))
            page, rest = found[start : start + 2], found[start + 2 :]
            listed = "".join(
                f"<Blob><Name>{name}</Name><Properties><Etag>0x{len(name)}</Etag>"
                f"<Content-Length>{len(self.blobs[name])}</Content-Length></Properties></Blob>"
                for name in page
            )
            marker = f"<NextMarker>{start + 2}</NextMarker>" if rest else "<NextMarker/>"
            text = f"<?xml version='1.0'?><EnumerationResults><Blobs>{listed}</Blobs>{marker}</EnumerationResults>"
            return Answer(text.encode())
        name = path.split("/", 3)[3]
        return Answer(self.blobs[name]) if name in self.blobs else Answer(b"", 404)

    def _expected(self, path: str, query: dict[str, str], headers: dict[str, str]) -> str:
        lines = ["GET", *[""] * 11, f"x-ms-date:{headers['x-ms-date']}", f"x-ms-version:{headers['x-ms-version']}"]
        lines.append(f"/devaccount{path}")
        lines += [f"{name}:{query[name]}" for name in sorted(query)]
        digest = hmac.new(self.key, "\n".join(lines).encode(), hashlib.sha256).digest()
        return f"SharedKey devaccount:{base64.b64encode(digest).decode()}"

"""A hub on loopback that takes repositories, large files and commits as the Hugging Face hub does."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_loopback"


class LoopbackHub(ThreadingHTTPServer):
    """Keeps what was pushed: `repositories` by name, with `private` and `files`. `failures`: next answers."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, Any]] = {}
        self.large: dict[str, bytes] = {}
        self.failures: list[int] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: LoopbackHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._answer(404, {"error": "nothing here"})

    def do_PUT(self) -> None:
        self.server.large[self.path.rsplit("/", 1)[-1]] = self._body()
        self._answer(200, {})

    def do_POST(self) -> None:
        body = self._body()
        if self.server.failures:
            return self._answer(self.server.failures.pop(0), {"error": "no"})
        if self.headers.get("authorization") != f"Bearer {TOKEN}":
            return self._answer(401, {"error": "who are you?"})
        if self.path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if self.path == "/api/repos/create":
            return self._create(json.loads(body))
        name = "/".join(self.path.removeprefix("/api/models").strip("/").split("/")[:2]).removesuffix(".git")
        if "/preupload/" in self.path:
            files = json.loads(body)["files"]
            kinds = [{"path": one["path"], "uploadMode": "lfs" if one["path"].endswith(".safetensors") else "regular",
                      "shouldIgnore": False} for one in files]  # fmt: skip
            return self._answer(200, {"files": kinds})
        if self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**one, "actions": {"upload": {"href": f"{self.server.url}/large/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            return self._answer(200, {"transfer": "basic", "objects": objects})
        if "/commit/" in self.path:
            return self._commit(name, body)
        return self._answer(404, {"error": self.path})

    def _create(self, order: dict[str, Any]) -> None:
        name = f"{order['organization']}/{order['name']}" if order.get("organization") else order["name"]
        if name in self.server.repositories:
            return self._answer(409, {"error": "exists", "url": f"{self.server.url}/{name}"})
        self.server.repositories[name] = {
            "private": order.get("private", order.get("visibility") == "private"),
            "files": {},
        }
        return self._answer(200, {"url": f"{self.server.url}/{name}"})

    def _commit(self, name: str, body: bytes) -> None:
        files = self.server.repositories[name]["files"]
        for line in body.splitlines():
            fact = json.loads(line)
            if fact["key"] == "file":
                files[fact["value"]["path"]] = base64.b64decode(fact["value"]["content"])
            elif fact["key"] == "lfsFile":
                large = self.server.large[fact["value"]["oid"]]
                assert hashlib.sha256(large).hexdigest() == fact["value"]["oid"]
                files[fact["value"]["path"]] = large
        self._answer(200, {"commitUrl": f"{self.server.url}/{name}/commit/1", "commitOid": "1" * 40, "success": True})

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("content-length") or 0))

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        payload = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

"""A receiver of webhooks on this machine: it keeps what comes and answers what it is told to."""

from __future__ import annotations

import http.server
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Received:
    """One request that came."""

    headers: dict[str, str]
    body: bytes


class Receiver:
    """A small HTTP server; `answer` is the status and the headers of what it says. `drips`: it never ends it."""

    def __init__(self) -> None:
        self.answer: tuple[int, dict[str, str]] = (204, {})
        self.drips = False
        self.received: list[Received] = []
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.received.append(Received(dict(self.headers.items()), body))
                if receiver.drips:
                    self.drip()
                    return
                status, headers = receiver.answer
                self.send_response(status)
                for name, value in {**headers, "Content-Length": "0"}.items():
                    self.send_header(name, value)
                self.end_headers()

            def drip(self) -> None:
                self.wfile.write(b"HTTP/1.1 204 No Content\r\nx: ")
                with suppress(OSError):
                    for _number in range(100):
                        time.sleep(0.1)
                        self.wfile.write(b"x")

            def log_message(self, *args: Any) -> None:
                """Say nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"

    def __enter__(self) -> Receiver:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

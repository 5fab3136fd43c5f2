"""gunicorn's worker with threads, for callers who are slow on purpose or by accident: none of them keeps a thread.

gunicorn lends a thread to a connection before anything was said on it, and reads what comes without a limit of time.
Here a connection waits for its first bytes without a thread, and who does not get a request said in time is cut off.
"""

from __future__ import annotations

import itertools
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from gunicorn.workers.gthread import _DEFER, ThreadWorker

from portal import stopping

# How long the head of a request may take, and a part of its body beyond what its size takes on a slow line.
HEAD_LIMIT_S = 20.0
BODY_LIMIT_S = 30.0
SLOW_LINE_BYTES_PER_S = 50_000
# What is left of a graceful stop when long answers are ended, so that their callers learn of it.
CLOSING_WORDS_S = 4.0
# What a process has open besides connections, each of which may have one to an engine beside it.
_OTHER_FILES = 200
_FIRST_BYTES_S = 0.02
_LOOK_EVERY_S = 0.5


class Deadlines:
    """Ends the reading of sockets whose time is over: whoever reads from one finds its end. Thread safe."""

    def __init__(self) -> None:
        self._due: dict[int, tuple[float, socket.socket]] = {}
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        threading.Thread(target=self._look_forever, name="deadlines", daemon=True).start()

    @contextmanager
    def reading(self, sock: socket.socket, limit_s: float) -> Iterator[None]:
        """Give a block so long to read from a socket."""
        number = self.begin(sock, limit_s)
        try:
            yield
        finally:
            self.end(number)

    def begin(self, sock: socket.socket, limit_s: float) -> int:
        """Begin to watch; the number is for `end`."""
        number = next(self._numbers)
        with self._lock:
            self._due[number] = time.monotonic() + limit_s, sock
        return number

    def end(self, number: int) -> None:
        """Stop watching; once it returns the socket is left alone. A second call does nothing."""
        with self._lock:
            self._due.pop(number, None)

    def _look_forever(self) -> None:
        while True:
            time.sleep(_LOOK_EVERY_S)
            now = time.monotonic()
            with self._lock:
                for number, (deadline, sock) in list(self._due.items()):
                    if deadline < now:
                        del self._due[number]
                        with suppress(OSError):
                            sock.shutdown(socket.SHUT_RD)


class _BoundedBody:
    """The body of a request whose every read has a limit of time."""

    def __init__(self, body: Any, deadlines: Deadlines, sock: socket.socket, length: int | None) -> None:
        self._body, self._deadlines, self._sock, self._left = body, deadlines, sock, length

    def __getattr__(self, name: str) -> Any:
        return getattr(self._body, name)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")

    def read(self, size: int | None = None) -> bytes:
        return self._bounded(self._body.read, size)

    def readline(self, size: int | None = None) -> bytes:
        return self._bounded(self._body.readline, size)

    def readlines(self, size: int | None = None) -> list[bytes]:
        return list(self)

    def _bounded(self, read: Any, size: int | None) -> bytes:
        known = [amount for amount in (size, self._left) if amount is not None and amount >= 0]
        with self._deadlines.reading(self._sock, BODY_LIMIT_S + min(known, default=0) / SLOW_LINE_BYTES_PER_S):
            found: bytes = read(size)
        if self._left is not None:
            self._left -= len(found)
        return found


class BoundedThreads(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's worker with threads, with limits of time on what is read."""

    worker_connections: int

    def init_process(self) -> None:
        self._make_room()
        self._deadlines = Deadlines()
        self._heads: dict[int, int] = {}  # what watches the head of a connection's request
        super().init_process()

    def _make_room(self) -> None:
        """Accept no more connections than there can be open files: gunicorn's worker would end with an error."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = 2 * self.worker_connections + _OTHER_FILES
        if soft != resource.RLIM_INFINITY and soft < wanted:
            soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            self.worker_connections = min(self.worker_connections, max(1, (soft - _OTHER_FILES) // 2))

    def handle(self, conn: Any) -> Any:
        if not conn.initialized and not conn.wait_for_data(_FIRST_BYTES_S):
            return _DEFER
        self._heads[id(conn)] = self._deadlines.begin(conn.sock, HEAD_LIMIT_S)
        try:
            return super().handle(conn)
        finally:
            self._head_is_read(conn)

    def handle_request(self, req: Any, conn: Any) -> Any:
        self._head_is_read(conn)
        length = next((value for name, value in req.headers if name == "CONTENT-LENGTH"), "")
        left = int(length) if length.isdecimal() else None
        req.body = _BoundedBody(req.body, self._deadlines, conn.sock, left)
        return super().handle_request(req, conn)

    def _cap_keepalive(self, deadline: float) -> None:
        """gunicorn calls this when a worker begins to stop, whatever the reason: answers still have time for an end."""
        stopping.begin(self.cfg.graceful_timeout - CLOSING_WORDS_S)
        super()._cap_keepalive(deadline)

    def _head_is_read(self, conn: Any) -> None:
        number = self._heads.pop(id(conn), None)
        if number is not None:
            self._deadlines.end(number)

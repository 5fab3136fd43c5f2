"""gunicorn's worker with threads, for callers who are slow on purpose or by accident: none of them keeps a thread.

gunicorn lends a thread to a connection before anything was said on it, and reads and sends without a limit of time.
Here a connection waits for its first bytes without a thread; who does not get a request said in time, or does not take
the answer, is cut off. Nor does the thread that accepts connections wait for those that do not hang up.
"""

from __future__ import annotations

import itertools
import queue
import resource
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from gunicorn.http import wsgi
from gunicorn.http.errors import ParseException
from gunicorn.workers.gthread import _DEFER, ThreadWorker

from portal import stopping
from portal.readable import is_readable

# How long the head of a request may take, and a part of its body beyond what its size takes on a slow line.
HEAD_LIMIT_S = 20.0
BODY_LIMIT_S = 30.0
SLOW_LINE_BYTES_PER_S = 50_000
# How long a caller may take nothing of an answer while there is something to send.
SENDING_LIMIT_S = 60.0
# How long the other side has to close a connection on which nothing more comes from us.
FAREWELL_S = 2.0
# What is left of a graceful stop when long answers are ended, so that their callers learn of it.
CLOSING_WORDS_S = 4.0
# What a process has open besides connections, each of which may have one to an engine beside it.
_OTHER_FILES = 200
_FIRST_BYTES_S = 0.02
_LOOK_EVERY_S = 0.5
_NOTE_EVERY_S = 1.0
# Longer than a busy machine takes to let a caller have the answer and ask again.
_LINGER_MS = 100
_SMALL_ANSWER_BYTES = 65536
_LOOK_AT_LEAVING_EVERY_S = 0.05


class Deadlines:
    """Ends the reading of sockets whose time is over: whoever reads from one finds its end. Thread safe."""

    def __init__(self) -> None:
        self._due: dict[int, tuple[float, socket.socket]] = {}
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        threading.Thread(target=self._look_forever, name="deadlines", daemon=True).start()

    def begin(self, sock: socket.socket, limit_s: float) -> int:
        """Begin to watch; the number is for `end`."""
        number = next(self._numbers)
        with self._lock:
            self._due[number] = time.monotonic() + limit_s, sock
        return number

    def end(self, number: int) -> bool:
        """Stop watching and return whether there was time left; from then on the socket is left alone."""
        with self._lock:
            return self._due.pop(number, None) is not None

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


class Farewells:
    """Closes connections that are over, in a thread of its own: says so, and lets the other side hang up first.

    Who closes first while something is unread may take the last part of an answer from the other side.
    """

    def __init__(self) -> None:
        self._coming: queue.SimpleQueue[tuple[socket.socket, Callable[[], object]]] = queue.SimpleQueue()
        self._leaving = selectors.DefaultSelector()
        threading.Thread(target=self._run, name="farewells", daemon=True).start()

    def add(self, sock: socket.socket, when_closed: Callable[[], object]) -> None:
        """Have a connection closed within FAREWELL_S."""
        self._coming.put((sock, when_closed))

    def _run(self) -> None:
        while True:
            while not self._leaving.get_map() or not self._coming.empty():
                self._begin(*self._coming.get())
            for key, _events in self._leaving.select(_LOOK_AT_LEAVING_EVERY_S):
                if _has_hung_up(key.fileobj):
                    self._end(key)
            now = time.monotonic()
            for key in list(self._leaving.get_map().values()):
                if key.data[0] < now:
                    self._end(key)

    def _begin(self, sock: socket.socket, when_closed: Callable[[], object]) -> None:
        try:
            sock.setblocking(False)
            sock.shutdown(socket.SHUT_WR)
            self._leaving.register(sock, selectors.EVENT_READ, (time.monotonic() + FAREWELL_S, when_closed))
        except (OSError, ValueError):  # it is gone already
            sock.close()
            when_closed()

    def _end(self, key: selectors.SelectorKey) -> None:
        self._leaving.unregister(key.fileobj)
        key.fileobj.close()  # type: ignore[union-attr]
        key.data[1]()


def _has_hung_up(sock: Any) -> bool:
    try:
        return not sock.recv(65536)
    except BlockingIOError:
        return False
    except OSError:
        return True


class _BoundedBody:
    """The body of a request whose every read has a limit of time.

    `is_late`: it was cut off, so what still comes of it must not be taken for the next request on the connection.
    """

    def __init__(self, body: Any, deadlines: Deadlines, sock: socket.socket, length: int | None) -> None:
        self._body, self._deadlines, self._sock, self._left = body, deadlines, sock, length
        self._begun, self._got = time.monotonic(), 0
        self.is_late = False

    @property
    def is_read(self) -> bool:
        """Whether every byte that was announced has been read."""
        return self._left == 0 and not self.is_late

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
        number = self._deadlines.begin(self._sock, self._limit_s(size))
        try:
            found: bytes = read(size)
        except ParseException as error:  # of a chunk; whoever reads a body knows errors of the system only
            raise OSError("the body is malformed") from error
        finally:
            self.is_late |= not self._deadlines.end(number)
        self._got += len(found)
        if self._left is not None:
            self._left -= len(found)
        return found

    def _limit_s(self, size: int | None) -> float:
        """Return how long a read may take; of a body in chunks, whose parts are small, all reads share one limit."""
        known = [amount for amount in (size, self._left) if amount is not None and amount >= 0]
        coming = min(known, default=0)
        if self._left is not None:
            return BODY_LIMIT_S + coming / SLOW_LINE_BYTES_PER_S
        return self._begun + BODY_LIMIT_S + (self._got + coming) / SLOW_LINE_BYTES_PER_S - time.monotonic()


class OneSend(wsgi.Response):  # type: ignore[misc]
    """gunicorn's answer, whose head and body go out together where the body is small and known as a whole."""

    headers_sent: bool
    sent: int

    def write(self, arg: Any) -> None:
        if (
            self.headers_sent
            or self.chunked
            or self._omits_body
            or not isinstance(arg, bytes)
            or self.response_length != len(arg)
            or len(arg) > _SMALL_ANSWER_BYTES
        ):
            super().write(arg)
            return
        head = "".join([*self.default_headers(), *(f"{name}: {value}\r\n" for name, value in self.headers), "\r\n"])
        self.headers_sent, self.sent = True, len(arg)
        self.sock.sendall(head.encode("latin-1") + arg)


wsgi.Response = OneSend  # by this name gunicorn makes all answers of HTTP/1


def _settle(config: Any) -> None:
    """Make plain attributes of gunicorn's settings, which are asked for dozens of times for each request."""
    for name, setting in config.settings.items():
        config.__dict__.setdefault(name, setting.get())


class BoundedThreads(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's worker with threads, with limits of time on what is read and sent."""

    worker_connections: int
    _noted = float("-inf")

    def init_process(self) -> None:
        self._make_room()
        self._deadlines, self._farewells = Deadlines(), Farewells()
        self._heads: dict[int, int] = {}  # what watches the head of a connection's request
        self._lingering = threading.Semaphore(self.cfg.threads // 4)
        _settle(self.cfg)
        super().init_process()

    def _make_room(self) -> None:
        """Accept no more connections than there can be open files: gunicorn's worker would end with an error."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = 2 * self.worker_connections + _OTHER_FILES
        if soft != resource.RLIM_INFINITY and soft < wanted:
            soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            self.worker_connections = min(self.worker_connections, max(1, (soft - _OTHER_FILES) // 2))

    def notify(self) -> None:
        """Tell gunicorn's master that this worker lives: now and then, not for each of hundreds of events a second."""
        now = time.monotonic()
        if now - self._noted > min(_NOTE_EVERY_S, self.timeout / 4 or _NOTE_EVERY_S):  # no timeout: nobody listens
            self._noted = now
            super().notify()

    def handle(self, conn: Any) -> Any:
        """Answer what is asked on a connection, and what is asked at once after an answer."""
        while True:
            is_kept = self._handle_one(conn)
            if is_kept is not True or not self._is_asked_at_once(conn):
                return is_kept

    def _is_asked_at_once(self, conn: Any) -> bool:
        """Wait a moment for a connection's next request, unless others wait for a thread.

        Handing the connection back and getting it again costs two threads their turn, and as much as half an answer.
        """
        if not self.alive or not self.tpool._work_queue.empty():
            return False
        if conn.parser.unreader.buf.getvalue():
            return True
        if not self._lingering.acquire(blocking=False):
            return False
        try:
            return is_readable(conn.sock, _LINGER_MS)
        finally:
            self._lingering.release()

    def _handle_one(self, conn: Any) -> Any:
        if not conn.initialized and not conn.wait_for_data(_FIRST_BYTES_S):
            return _DEFER
        if not conn.initialized:
            with suppress(OSError):  # of another family than TCP
                limit_ms = int(1000 * SENDING_LIMIT_S)
                conn.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, limit_ms)
        self._heads[id(conn)] = self._deadlines.begin(conn.sock, HEAD_LIMIT_S)
        try:
            return super().handle(conn)
        finally:
            self._head_is_read(conn)

    def handle_request(self, req: Any, conn: Any) -> Any:
        if not self._head_is_read(conn):
            return False
        length = next((value for name, value in req.headers if name == "CONTENT-LENGTH"), "")
        left = int(length) if length.isdecimal() else None
        body = req.body = _BoundedBody(req.body, self._deadlines, conn.sock, left)
        return super().handle_request(req, conn) and not body.is_late

    def _keepalive_after(self, conn: Any, keepalive: bool) -> bool:
        """Whether the connection can be used again; of a body that was read to its end nothing has to be drained."""
        body = conn.parser.mesg.body
        if keepalive and isinstance(body, _BoundedBody) and body.is_read:
            conn.parser.mesg = None
            return True
        return bool(super()._keepalive_after(conn, keepalive))

    def finish_request(self, conn: Any, fs: Any) -> None:
        """Go on with a connection, in the thread that accepts connections, which must not wait for one of them."""
        if not fs.cancelled() and (fs.exception() is not None or fs.result()):
            super().finish_request(conn, fs)
        else:
            self._farewells.add(conn.sock, partial(self.method_queue.defer, self._is_closed))

    def _is_closed(self) -> None:
        self.nr_conns -= 1

    def _cap_keepalive(self, deadline: float) -> None:
        """gunicorn calls this when a worker begins to stop, whatever the reason: answers still have time for an end."""
        stopping.begin(self.cfg.graceful_timeout - CLOSING_WORDS_S)
        super()._cap_keepalive(deadline)

    def _head_is_read(self, conn: Any) -> bool:
        """Stop watching the head and return whether it came in time."""
        number = self._heads.pop(id(conn), None)
        return number is not None and self._deadlines.end(number)

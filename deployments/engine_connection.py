"""HTTP/1.1 connections to engines: kept alive, shared by threads one request at a time.

We own the socket, because a proxy has to do what HTTP clients hide: notice within a moment that its own caller hung up,
also while the engine is silent, and tell silence from an end while tokens are awaited. Closing the connection is how a
generation is cancelled.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType

from deployments.engine_http import BYTES, Awaiting, Malformed, ResponseReader, request_bytes

CONNECT_TIMEOUT_S = 2.0
# Engines close idle connections after five seconds; a younger one is good, or found closed before it is used.
IDLE_LIMIT_S = 4.0
MAX_IDLE_PER_ENGINE = 64
_READ_BYTES = 65536
_HANG_UP = select.POLLRDHUP | select.POLLHUP | select.POLLERR


class Silence(Exception):
    """Nothing came within the time given; the request goes on."""


class CallerGone(Exception):
    """Whoever waits for the answer has hung up."""


class Disconnected(Exception):
    """The engine cannot be reached, or the connection broke."""


@dataclass(frozen=True)
class Address:
    """Where an engine listens."""

    host: str
    port: int


@dataclass(frozen=True)
class Request:
    """What to send."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""


class Connection:
    """One connection, used for one request after the other."""

    def __init__(self, address: Address) -> None:
        """Connect. Raises: Disconnected if nobody answers within CONNECT_TIMEOUT_S."""
        self.address = address
        self.is_fresh = True
        self.idle_since = 0.0
        self._answer: ResponseReader | None = None
        self._host = f"{address.host}:{address.port}"
        try:
            self._socket = socket.create_connection((address.host, address.port), timeout=CONNECT_TIMEOUT_S)
        except OSError as error:
            raise Disconnected(str(error)) from error
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, request: Request) -> None:
        """Send a whole request. Raises: Disconnected."""
        sent = request_bytes(request.method, request.path, {"host": self._host, **request.headers}, request.body)
        self._answer = ResponseReader()
        try:
            self._socket.sendall(sent)
        except OSError as error:
            raise Disconnected(str(error)) from error

    def receive_head(self, *, wait_s: float, caller: int | None = None) -> int:
        """Return the status of the response, and keep its headers in `headers`. Errors as for `receive_part`."""
        answer = self._reading
        self._until(answer.head, wait_s, caller)
        return answer.status

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of the response, by their names in lower case."""
        return self._reading.headers

    def receive_part(self, *, wait_s: float, caller: int | None = None) -> bytes | None:
        """Return the next bytes of the body as they arrive, None at its end.

        `caller` is the file descriptor of the caller's connection, where the web server has one.
        Raises: Silence after `wait_s` without a byte, CallerGone, Disconnected.
        """
        return self._until(self._reading.part, wait_s, caller)

    def close(self) -> None:
        """Hang up; an engine that is still generating for us stops."""
        self._socket.close()

    @property
    def is_reusable(self) -> bool:
        """Whether the request is over and the engine left the connection open."""
        return self._answer is not None and self._answer.is_reusable

    def rest(self) -> None:
        """Get ready for the next request."""
        self.is_fresh = False
        self.idle_since = time.monotonic()

    @property
    def is_stale(self) -> bool:
        """Whether it rested too long, or is readable, which an idle connection is once the engine has closed it."""
        return time.monotonic() - self.idle_since > IDLE_LIMIT_S or bool(self._poll(0, None))

    @property
    def _reading(self) -> ResponseReader:
        assert self._answer is not None
        return self._answer

    def _until(self, step: Callable[[], bytes | Awaiting | None], wait_s: float, caller: int | None) -> bytes | None:
        """Take a step of reading, as soon as enough has arrived for it."""
        try:
            while (found := step()) is BYTES:
                self._await_bytes(wait_s, caller)
                self._reading.feed(self._socket.recv(_READ_BYTES))
        except (OSError, Malformed) as error:
            raise Disconnected(str(error)) from error
        return found

    def _await_bytes(self, wait_s: float, caller: int | None) -> None:
        ready = self._poll(wait_s, caller)
        if self._socket.fileno() in ready:
            return
        if ready:
            raise CallerGone
        raise Silence

    def _poll(self, wait_s: float, caller: int | None) -> set[int]:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        if caller is not None:
            poll.register(caller, _HANG_UP)
        return {descriptor for descriptor, _event in poll.poll(wait_s * 1000)}


class Pool:
    """Connections that rest between requests. Thread safe; a forked child starts with an empty one."""

    def __init__(self) -> None:
        self._idle: defaultdict[Address, list[Connection]] = defaultdict(list)
        self._lock = threading.Lock()
        os.register_at_fork(after_in_child=self._forget)

    def acquire(self, address: Address, *, fresh: bool = False) -> Connection:
        """Return a connection for the caller alone. Raises: Disconnected."""
        while not fresh:
            with self._lock:
                resting = self._idle[address]
                connection = resting.pop() if resting else None
            if connection is None:
                break
            if not connection.is_stale:
                return connection
            connection.close()
        return Connection(address)

    def release(self, connection: Connection) -> None:
        """Take a connection back, or close it if it cannot be used again."""
        if connection.is_reusable:
            connection.rest()
            with self._lock:
                resting = self._idle[connection.address]
                if len(resting) < MAX_IDLE_PER_ENGINE:
                    resting.append(connection)
                    return
        connection.close()

    def _forget(self) -> None:
        self._idle = defaultdict(list)
        self._lock = threading.Lock()


class Exchange:
    """A request that was sent and whose answer is being read; leaving it gives the connection back or closes it."""

    def __init__(self, pool: Pool, connection: Connection, status: int) -> None:
        self.status = status
        self.connection = connection
        self._pool = pool
        self._is_open = True

    def close(self) -> None:
        """Let go of the connection; a second call does nothing."""
        if self._is_open:
            self._is_open = False
            self._pool.release(self.connection)

    def __enter__(self) -> Exchange:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def exchange(pool: Pool, address: Address, request: Request, *, wait_s: float, caller: int | None = None) -> Exchange:
    """Send a request and return once the head of the response is here.

    A kept connection may die in the moment it is used; then the request is sent once more on a fresh one.
    Raises: Disconnected, Silence after `wait_s`, CallerGone.
    """
    connection = pool.acquire(address)
    try:
        return Exchange(pool, connection, _ask(connection, request, wait_s, caller))
    except Disconnected:
        if connection.is_fresh:
            raise
    connection = pool.acquire(address, fresh=True)
    return Exchange(pool, connection, _ask(connection, request, wait_s, caller))


def _ask(connection: Connection, request: Request, wait_s: float, caller: int | None) -> int:
    try:
        connection.send(request)
        return connection.receive_head(wait_s=wait_s, caller=caller)
    except BaseException:
        connection.close()
        raise

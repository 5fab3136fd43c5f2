"""Load for the proxy benchmark: keep-alive connections that ask one request after the other, streams held open, callers
who hang up, and callers with keys that are none.
"""

from __future__ import annotations

import asyncio
import json
import math
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus

ASKED = "The printer on floor 7 is out of paper." * 3
FLOODING = 4  # connections on which keys are tried
GONE_LIMIT_S = 10.0


@dataclass(frozen=True)
class Place:
    """Where to ask, and with which bearer."""

    host: str
    port: int
    bearer: str

    def post(self, *, stream: bool = False, asked: str = ASKED) -> bytes:
        """Return a chat request as bytes."""
        messages = [{"role": "user", "content": asked}]
        body = json.dumps({"model": "trivial", "messages": messages, "stream": stream}).encode()
        return (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {self.bearer}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        ).encode() + body

    def get(self, path: str) -> bytes:
        """Return a request for a page as bytes, signed in by the bearer as a session."""
        return f"GET {path} HTTP/1.1\r\nhost: localhost\r\ncookie: sessionid={self.bearer}\r\n\r\n".encode()


@dataclass(frozen=True)
class Times:
    """What one measurement found: the seconds of each answer with 200, and how many requests got anything else.

    Only good answers count: a server that refuses or redirects is quick at it.
    """

    seconds: tuple[float, ...]
    errors: int
    took_s: float

    @property
    def requests_per_s(self) -> float:
        """Good answers in a second."""
        return len(self.seconds) / self.took_s

    @property
    def p50_ms(self) -> float:
        """The median of good answers, infinite without one."""
        return 1000 * statistics.median(self.seconds or [math.inf])

    @property
    def p95_ms(self) -> float:
        """What 95 of 100 good answers stay below, infinite without one."""
        ordered = sorted(self.seconds) or [math.inf]
        return 1000 * ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]

    @property
    def count(self) -> int:
        """All requests that were sent."""
        return len(self.seconds) + self.errors

    def __add__(self, other: Times) -> Times:
        return Times(self.seconds + other.seconds, self.errors + other.errors, self.took_s + other.took_s)

    def __str__(self) -> str:
        rate = f"{self.requests_per_s:.0f} requests/s"
        return f"{rate}, p50 {self.p50_ms:.1f} ms, p95 {self.p95_ms:.1f} ms, {self.errors} errors"


async def measure(place: Place, request: bytes, *, in_flight: int, seconds: float) -> Times:
    """Ask with so many connections for so long and return the figures."""
    times: list[float] = []
    errors = 0
    begun = time.monotonic()

    async def ask() -> None:
        nonlocal errors
        connection: Connection | None = None
        while time.monotonic() - begun < seconds:
            started = time.monotonic()
            status, connection = await _ask(place, request, connection)
            if status == HTTPStatus.OK:
                times.append(time.monotonic() - started)
            else:
                errors += 1
        if connection:
            connection[1].close()

    await asyncio.gather(*(ask() for _number in range(in_flight)))
    return Times(tuple(times), errors, time.monotonic() - begun)


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _ask(place: Place, request: bytes, kept: Connection | None) -> tuple[int, Connection | None]:
    """Ask on a kept connection or a new one; return the status, 0 without an answer, and what can be kept."""
    try:
        reader, writer = kept or await asyncio.open_connection(place.host, place.port)
        writer.write(request)
        status, keeps = await _read(reader)
    except (OSError, EOFError):
        return 0, None
    if keeps:
        return status, (reader, writer)
    writer.close()
    return status, None


async def _read(reader: asyncio.StreamReader) -> tuple[int, bool]:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    if b"transfer-encoding: chunked" in head:
        while size := int(await reader.readline(), 16):
            await reader.readexactly(size + 2)
        await reader.readline()
    else:
        await reader.readexactly(int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0))
    return int(head.split(b" ", 2)[1]), b"connection: close" not in head


@asynccontextmanager
async def open_streams(place: Place, count: int) -> AsyncIterator[int]:
    """Hold so many streams open and read along; yields how many are answered with 200."""
    readers, writers = [], []
    for _number in range(count):
        reader, writer = await asyncio.open_connection(place.host, place.port)
        writer.write(place.post(stream=True))
        readers.append(reader)
        writers.append(writer)
    heads = await asyncio.gather(*(reader.readuntil(b"\r\n\r\n") for reader in readers))
    reading = [asyncio.create_task(_read_on(reader)) for reader in readers]
    try:
        yield sum(b" 200 " in head for head in heads)
    finally:
        for task in reading:
            task.cancel()
        for writer in writers:
            writer.close()


@asynccontextmanager
async def crowd(place: Place, count: int, *, patience_s: float = 60.0) -> AsyncIterator[Counter[int]]:
    """Hold so many silent connections open, and ask for as many streams; yields how these were answered (0: not)."""
    made = [await asyncio.open_connection(place.host, place.port) for _number in range(2 * count)]
    asking = made[count:]
    for _reader, writer in asking:
        writer.write(place.post(stream=True))
    answers = await asyncio.gather(*(_status(reader, patience_s) for reader, _writer in asking))
    reading = [asyncio.create_task(_read_on(reader)) for reader, _writer in asking]
    try:
        yield Counter(answers)
    finally:
        for task in reading:
            task.cancel()
        for _reader, writer in made:
            writer.close()


@asynccontextmanager
async def flood(place: Place, bearers: Sequence[str], per_s: float) -> AsyncIterator[Counter[int]]:
    """Send so many requests a second with these bearers in turn; yields how they were answered so far."""
    answered: Counter[int] = Counter()

    async def knock(first: int) -> None:
        connection: Connection | None = None
        begun, sent = time.monotonic(), 0
        while True:
            bearer = bearers[(first + sent) % len(bearers)]
            status, connection = await _ask(place, replace(place, bearer=bearer).post(), connection)
            answered[status] += 1
            sent += 1
            await asyncio.sleep(max(0.0, begun + sent * FLOODING / per_s - time.monotonic()))

    knocking = [asyncio.create_task(knock(number)) for number in range(FLOODING)]
    try:
        yield answered
    finally:
        for task in knocking:
            task.cancel()


async def seconds_until_stopped(place: Place, engine: Place, request: bytes) -> float:
    """Ask, hang up before the answer is complete, and return how long the engine went on; infinite if too long."""
    before = len(await _gone(engine))
    _reader, writer = await asyncio.open_connection(place.host, place.port)
    writer.write(request)
    await asyncio.sleep(1.0)  # the engine is at work by then
    hung_up = time.monotonic()
    writer.close()
    while time.monotonic() - hung_up < GONE_LIMIT_S:
        if len(found := await _gone(engine)) > before:
            return found[-1] - hung_up
        await asyncio.sleep(0.05)
    return math.inf


async def _gone(engine: Place) -> list[float]:
    reader, writer = await asyncio.open_connection(engine.host, engine.port)
    writer.write(b"GET /gone HTTP/1.1\r\nhost: localhost\r\n\r\n")
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    body = await reader.readexactly(int(head.partition(b"content-length:")[2].partition(b"\r\n")[0]))
    writer.close()
    found: list[float] = json.loads(body)
    return found


async def _status(reader: asyncio.StreamReader, patience_s: float) -> int:
    try:
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), patience_s)
    except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
        return 0
    return int(head.split(b" ", 2)[1])


async def _read_on(reader: asyncio.StreamReader) -> None:
    while await reader.read(65536):
        pass

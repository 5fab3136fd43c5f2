"""Load for the proxy benchmark: keep-alive connections that ask one request after the other, and streams held open."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

ASKED = {"model": "trivial", "messages": [{"role": "user", "content": "The printer on floor 7 is out of paper." * 3}]}


@dataclass(frozen=True)
class Place:
    """Where to ask, and with which bearer."""

    host: str
    port: int
    bearer: str

    def post(self, *, stream: bool = False) -> bytes:
        """Return a chat request as bytes."""
        body = json.dumps({**ASKED, "stream": stream}).encode()
        return (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {self.bearer}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        ).encode() + body

    def get(self, path: str) -> bytes:
        """Return a request for a page as bytes, signed in by the bearer as a session."""
        return f"GET {path} HTTP/1.1\r\nhost: localhost\r\ncookie: sessionid={self.bearer}\r\n\r\n".encode()


@dataclass(frozen=True)
class Times:
    """What one measurement found; `errors`: answers that were not 200."""

    requests_per_s: float
    p50_ms: float
    p95_ms: float
    errors: int
    count: int

    @classmethod
    def of(cls, seconds: Sequence[float], errors: int, took_s: float) -> Times:
        """Return the figures of single times."""
        ordered = sorted(seconds)
        p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
        return cls(len(ordered) / took_s, 1000 * statistics.median(ordered), 1000 * p95, errors, len(ordered))


async def measure(place: Place, request: bytes, *, in_flight: int, seconds: float) -> Times:
    """Ask with so many connections for so long and return the figures."""
    times: list[float] = []
    errors = 0
    begun = time.monotonic()

    async def ask() -> None:
        nonlocal errors
        reader, writer = await asyncio.open_connection(place.host, place.port)
        while time.monotonic() - begun < seconds:
            started = time.monotonic()
            writer.write(request)
            status, keeps = await _read(reader)
            times.append(time.monotonic() - started)
            errors += status != 200
            if not keeps:
                writer.close()
                reader, writer = await asyncio.open_connection(place.host, place.port)
        writer.close()

    await asyncio.gather(*(ask() for _number in range(in_flight)))
    return Times.of(times, errors, time.monotonic() - begun)


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


async def _status(reader: asyncio.StreamReader, patience_s: float) -> int:
    try:
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), patience_s)
    except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
        return 0
    return int(head.split(b" ", 2)[1])


async def _read_on(reader: asyncio.StreamReader) -> None:
    while await reader.read(65536):
        pass

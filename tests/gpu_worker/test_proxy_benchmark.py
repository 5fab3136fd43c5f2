"""The proxy benchmark's own judgement: only answers with 200 count, and faults are called faults."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest

from gpu_worker.benchmarks import proxy_engine, proxy_guests, proxy_measure
from gpu_worker.benchmarks.processor_time import Held
from gpu_worker.benchmarks.proxy_guests import Crowded, Flooded, HungUp
from gpu_worker.benchmarks.proxy_load import Place, Times, flood, measure, seconds_until_stopped
from gpu_worker.benchmarks.proxy_measure import Measured

FAST = Times((0.002,) * 600, 0, 1.0)
HELD = Held(100.0, 50)
GOOD = Measured(
    direct=dict.fromkeys((1, 8, 32), FAST),
    proxied=dict.fromkeys((1, 8, 32), FAST),
    litellm={count: replace(FAST, took_s=10.0) for count in (1, 8, 32)},
    cpu_ms={},
    page_before=FAST,
    page_beside=FAST,
    streams=proxy_guests.STREAMS,
    hung_up=HungUp((0.1, 0.2), (0.1,)),
    flooded=Flooded(FAST, FAST, Counter({401: 90, 429: 10})),
    crowded=Crowded(Counter({200: 240, 429: 760}), FAST, proxy_guests.STREAMS, HELD, HELD),
)


def missed(found: Measured) -> list[str]:
    lines = proxy_measure._section(found).splitlines()
    return [line for line in lines if line.endswith("| **missed** |")]


def test_everything_in_order():
    assert missed(GOOD) == []
    assert proxy_measure._section(GOOD).count("| reached |") == 10


ONE_ERROR = replace(FAST, errors=1)


@pytest.mark.parametrize(
    ("worse", "said"),
    [
        ({"proxied": GOOD.proxied | {32: replace(FAST, took_s=1.3)}}, ["requests/s at 32 in flight | at least 500"]),
        # what is answered quickly with an error is no request
        ({"proxied": GOOD.proxied | {32: ONE_ERROR}}, ["1 of 601 errors", "to LiteLLM's"]),
        ({"proxied": GOOD.proxied | {1: ONE_ERROR}}, ["added to one request"]),
        ({"page_beside": ONE_ERROR}, ["of a page"]),
        ({"streams": 199}, ["of a page"]),
        ({"hung_up": HungUp((0.1, math.inf), (0.1,))}, ["a plain request hung up"]),
        ({"hung_up": HungUp((0.1,), (1.1,))}, ["a streamed request hung up"]),
        ({"flooded": Flooded(FAST, replace(FAST, seconds=(0.0025,) * 99), Counter({401: 9}))}, ["+25%"]),
        ({"flooded": Flooded(FAST, FAST, Counter({401: 9, 200: 1}))}, ["9 of 10 bad keys refused"]),
        ({"flooded": Flooded(FAST, FAST, Counter())}, ["0 of 0 bad keys refused"]),
        ({"crowded": replace(GOOD.crowded, answers=Counter({200: 900, 500: 100}))}, ["100 with 500"]),
        ({"crowded": replace(GOOD.crowded, after=Held(200.0, 50))}, ["memory that the crowd left"]),
        ({"crowded": replace(GOOD.crowded, after=Held(100.0, 250))}, ["files that it left"]),
    ],
)
def test_each_fault_is_called_one(worse, said):
    found = missed(replace(GOOD, **worse))
    assert len(found) == len(said)
    for words, line in zip(said, found, strict=True):
        assert words in line


@asynccontextmanager
async def serving(answer):
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield Place("127.0.0.1", server.sockets[0].getsockname()[1], "key")
    finally:
        server.close()


def always(head: bytes):
    async def answer(reader, writer):
        with suppress(asyncio.CancelledError, ConnectionError):  # the loop ends while callers are connected
            while await reader.read(65536):
                writer.write(head)
                await writer.drain()
        writer.close()

    return answer


@pytest.mark.parametrize(
    ("head", "is_good"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", True),
        (b"HTTP/1.1 302 Found\r\nlocation: /login\r\ncontent-length: 0\r\n\r\n", False),
        (b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nconnection: close\r\n\r\n", False),
    ],
)
def test_only_answers_with_200_count(head, is_good):
    async def ask():
        async with serving(always(head)) as place:
            return await measure(place, place.get("/"), in_flight=2, seconds=0.1)

    found = asyncio.run(ask())
    assert (bool(found.seconds), bool(found.errors)) == (is_good, not is_good)
    assert (found.p50_ms < math.inf) is is_good


def test_a_server_that_breaks_connections_is_an_error_and_no_end():
    async def answer(_reader, writer):
        writer.close()

    async def ask():
        async with serving(answer) as place:
            return await measure(place, place.get("/"), in_flight=1, seconds=0.1)

    found = asyncio.run(ask())
    assert found.requests_per_s == 0
    assert found.errors


def test_the_engine_notes_when_callers_hang_up():
    async def hang_up():
        async with serving(proxy_engine.answer) as engine:
            found = await proxy_guests.hang_up(engine, engine, times=1)
            whole = await measure(engine, engine.post(), in_flight=2, seconds=0.1)
            return found, whole

    found, whole = asyncio.run(hang_up())
    assert len(found.plain) == len(found.streamed) == 1
    assert all(0 <= seconds < 1 for seconds in (*found.plain, *found.streamed))
    assert whole.errors == 0


def test_one_who_does_not_notice_is_infinitely_late(monkeypatch):
    monkeypatch.setattr("gpu_worker.benchmarks.proxy_load.GONE_LIMIT_S", 0.2)

    async def hang_up():
        async with serving(proxy_engine.answer) as engine, serving(always(b"")) as deaf:
            return await seconds_until_stopped(deaf, engine, deaf.post())

    assert asyncio.run(hang_up()) == math.inf


def test_bad_keys_are_tried_beside_good_requests():
    async def answer(reader, writer):
        with suppress(asyncio.CancelledError, asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.partition(b"content-length: ")[2].split()[0]))
                status = b"200 OK" if b"Bearer tnp_0_good\r\n" in head else b"401 Unauthorized"
                writer.write(b"HTTP/1.1 %b\r\ncontent-length: 0\r\n\r\n" % status)
        writer.close()

    async def knock():
        async with serving(answer) as place:
            return await proxy_guests.try_keys(replace(place, bearer="tnp_0_good"), seconds=0.6)

    found = asyncio.run(knock())
    assert (found.before.errors, found.beside.errors) == (0, 0)
    assert set(found.answers) == {401}
    assert proxy_guests.flooded_bar(found).measured.endswith(
        f"{found.answers[401]} of {found.answers[401]} bad keys refused"
    )


def test_keys_are_tried_in_turn_and_not_faster_than_said():
    async def knock():
        refusing = always(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n")
        async with serving(refusing) as place, flood(place, ["a", "b"], per_s=40) as answered:
            await asyncio.sleep(0.5)
            return Counter(answered)

    found = asyncio.run(knock())
    assert set(found) == {401}
    assert 8 <= found[401] <= 28

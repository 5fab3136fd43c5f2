"""The client of engines: pooled connections, streams, silence, hang-ups, and every failure as a portal error."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from deployments import engine_client
from deployments.engine_client import AdapterRefused, EngineFailed, EngineTarget, EngineTimeout
from deployments.engine_connection import CallerGone, Pool, Silence
from portal.errors import PortalError, Unavailable
from tests.deployments.conftest import wait_for
from tests.deployments.fake_engine import FakeEngine


@pytest.fixture
def target(fake_engine: FakeEngine) -> EngineTarget:
    return EngineTarget(fake_engine.url, fake_engine.key)


@pytest.fixture(autouse=True)
def empty_pool(monkeypatch) -> Pool:
    pool = Pool()
    monkeypatch.setattr(engine_client, "_pool", pool)
    return pool


def ask(text: str, **options: object) -> dict:
    return {"model": "tiny", "messages": [{"role": "user", "content": text}], **options}


def content(answer: dict) -> str:
    return answer["choices"][0]["message"]["content"]


def test_a_connection_is_used_again(target, empty_pool):
    for text in ("one", "two", "three"):
        assert content(engine_client.chat(target, ask(text))) == f"tiny heard: {text}"
    assert len(empty_pool._idle[target.address]) == 1


def test_threads_never_share_a_connection(target):
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda n: content(engine_client.chat(target, ask(f"number {n}"))), range(200)))
    assert answers == [f"tiny heard: number {n}" for n in range(200)]


def test_a_kept_connection_that_died_is_replaced(target, fake_engine, empty_pool):
    engine_client.chat(target, ask("one"))
    (connection,) = empty_pool._idle[target.address]
    connection._socket.shutdown(socket.SHUT_RDWR)
    assert content(engine_client.chat(target, ask("two"))) == "tiny heard: two"


def test_events_arrive_one_by_one_and_the_connection_is_kept(target, empty_pool):
    stream = engine_client.stream_chat(target, ask("some words"))
    events = iter(stream.next_event, None)
    texts = [event["choices"][0]["delta"].get("content") for event in events]
    assert texts == ["", "tiny ", "heard: ", "some ", "words ", None]
    stream.close()
    assert len(empty_pool._idle[target.address]) == 1


def test_closing_a_stream_stops_the_engine(target, fake_engine, empty_pool):
    stream = engine_client.stream_chat(target, ask("#forever"))
    stream.next_event()
    stream.close()
    stream.close()
    assert wait_for(lambda: fake_engine.hang_ups == 1)
    assert not empty_pool._idle[target.address]


def test_silence_is_told_from_an_end(target, monkeypatch):
    monkeypatch.setattr(engine_client, "PING_EVERY_S", 0.05)
    stream = engine_client.stream_chat(target, ask("#slow"))
    stream.next_event()
    with pytest.raises(Silence):
        stream.next_event()
    while True:
        try:
            assert stream.next_event()["choices"][0]["delta"]["content"] == "tiny "
            break
        except Silence:
            continue
    stream.close()


def test_endless_silence_becomes_a_timeout(target, monkeypatch, settings):
    settings.ENGINE_TIMEOUT_SECONDS = 1
    monkeypatch.setattr(engine_client, "PING_EVERY_S", 0.5)
    with pytest.raises(EngineTimeout) as caught:
        engine_client.chat(target, ask("#silent"))
    assert caught.value.status == 504


@pytest.mark.parametrize("streams", [False, True])
def test_a_caller_who_hangs_up_ends_the_request_at_once(target, fake_engine, streams):
    def ask_and_read(caller: int) -> None:
        if not streams:
            engine_client.chat(target, ask("#slow"), caller=caller)
            return
        with closing(engine_client.stream_chat(target, ask("#forever"), caller=caller)) as stream:
            while stream.next_event():
                pass

    ours, theirs = socket.socketpair()
    theirs.close()
    started = time.monotonic()
    with ours, pytest.raises(CallerGone):
        ask_and_read(ours.fileno())
    assert time.monotonic() - started < 2
    assert wait_for(lambda: fake_engine.hang_ups == 1)


def test_the_end_of_a_stream_without_its_mark_is_an_error(target):
    stream = engine_client.stream_chat(target, ask("#die"))
    with pytest.raises(Unavailable):
        list(iter(stream.next_event, None))
    stream.close()


def test_what_the_caller_did_wrong_keeps_the_engines_words(target):
    for start in (engine_client.chat, engine_client.stream_chat):
        with pytest.raises(PortalError) as caught:
            start(target, ask("#toolong"))
        error = caught.value
        assert (error.status, error.code, error.param) == (400, "context_length_exceeded", "messages")


def test_a_busy_engine_says_when_to_come_back(target):
    with pytest.raises(Unavailable) as caught:
        engine_client.chat(target, ask("#busy"))
    assert caught.value.headers["Retry-After"] == "7"


def test_an_engine_that_is_away_or_new_is_unavailable(target, fake_engine):
    for stale in (EngineTarget("http://127.0.0.1:1", "k"), EngineTarget(fake_engine.url, "old key")):
        with pytest.raises(Unavailable):
            engine_client.chat(stale, ask("x"))
    with pytest.raises(Unavailable) as caught:
        engine_client.chat(target, {**ask("x"), "model": "adapter-nobody-loaded"})
    assert caught.value.code == "model_loading"


def test_an_answer_that_is_no_json_is_unavailable_and_a_500_is_final():
    def answers(raw: bytes) -> EngineTarget:
        listener = socket.create_server(("127.0.0.1", 0))

        def serve() -> None:
            connection, _ = listener.accept()
            connection.recv(65536)
            connection.sendall(raw)
            connection.close()
            listener.close()

        import threading

        threading.Thread(target=serve, daemon=True).start()
        return EngineTarget(f"http://127.0.0.1:{listener.getsockname()[1]}", "k")

    with pytest.raises(Unavailable):
        engine_client.chat(answers(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nhey"), ask("x"))
    with pytest.raises(Unavailable):
        engine_client.chat(answers(b"HTTP/1.1 200 OK\r\ncontent-length: 30\r\n\r\nhey"), ask("x"))
    with pytest.raises(Unavailable):
        engine_client.chat(answers(b"SSH-2.0-OpenSSH\r\n"), ask("x"))
    with pytest.raises(EngineFailed):
        engine_client.chat(answers(b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n"), ask("x"))


def test_a_stream_that_does_not_begin_in_time_says_when_to_try_again(target, fake_engine, monkeypatch):
    monkeypatch.setattr(engine_client, "PING_EVERY_S", 0.05)
    monkeypatch.setattr(engine_client, "BEGIN_WITHIN_S", 0.2)
    stream = engine_client.stream_chat(target, ask("#waits"))
    for _ping in range(3):
        with pytest.raises(Silence):
            stream.next_event()
    with pytest.raises(Unavailable, match="too busy to begin") as refusal:
        stream.next_event()
    assert refusal.value.headers["Retry-After"] == "5"
    stream.close()
    assert wait_for(lambda: fake_engine.hang_ups >= 1), "the engine is told that nobody waits"
    assert not engine_client._places._open


def test_adapters_are_loaded_and_unloaded(target, fake_engine, tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    engine_client.load_adapter(target, name="a", folder=tmp_path)
    assert fake_engine.adapters == {"a": str(tmp_path)}
    engine_client.unload_adapter(target, name="a")
    engine_client.unload_adapter(target, name="a")
    with pytest.raises(AdapterRefused, match="no adapter in this folder"):
        engine_client.load_adapter(target, name="b", folder=tmp_path / "nowhere")
    assert engine_client.health_of(target)
    assert engine_client.health_of(EngineTarget("http://127.0.0.1:1", "k")) is None

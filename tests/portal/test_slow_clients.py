"""Callers who say nothing, or only byte by byte, keep no thread of a real gunicorn; those in good faith are served."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from portal import gunicorn_worker
from portal.management.commands.up import is_free

pytestmark = pytest.mark.slow
PROGRAM = """
import time
from portal import gunicorn_worker, stopping

gunicorn_worker.HEAD_LIMIT_S = gunicorn_worker.BODY_LIMIT_S = gunicorn_worker.SENDING_LIMIT_S = 1.0


def application(environ, start_response):
    body = environ["wsgi.input"].read()
    if environ["PATH_INFO"] == "/known":
        answer = b"<%s>" % body
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(answer)))])
        return [answer]
    start_response("200 OK", [("Content-Type", "text/plain")])
    if environ["PATH_INFO"] == "/stream":
        return (time.sleep(0.5) or b"word " for _number in range(5))
    if environ["PATH_INFO"] == "/endless":
        return endless()
    if environ["PATH_INFO"] == "/flood":
        return (b"x" * 65536 for _number in range(10_000))
    if environ["PATH_INFO"] == "/slow":
        time.sleep(1)
    return [b"%d" % len(body)]


def endless():
    while stopping.left_s() != 0:
        yield b"word "
        time.sleep(0.1)
    yield b"closing words"
"""
THREADS = 4  # one of which may wait for what is asked at once after an answer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "small.py").write_text(PROGRAM)
    port = next(port for port in range(18_700, 18_900) if is_free("127.0.0.1", port))
    command = [
        sys.executable,
        "-m",
        "gunicorn",
        "small:application",
        "--bind",
        f"127.0.0.1:{port}",
        "--no-control-socket",
    ]
    options = [
        "--worker-class",
        "portal.gunicorn_worker.BoundedThreads",
        "--threads",
        str(THREADS),
        "--graceful-timeout",
        "6",
        "--keep-alive",
        "30",
    ]
    project = str(Path(__file__).parents[2])
    with subprocess.Popen([*command, *options, "--pythonpath", f"{folder},{project}"], cwd=folder) as server:
        try:
            deadline = time.monotonic() + 60
            while True:
                with contextlib.suppress(OSError), connected(port) as caller:
                    assert ask(caller) == b"0"
                    break
                assert time.monotonic() < deadline
                time.sleep(0.1)
            yield port, server
        finally:
            server.terminate()


@pytest.fixture
def port(server) -> int:
    return server[0]


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=30)


def ask(caller: socket.socket, head: bytes = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", body: bytes = b"") -> bytes:
    caller.sendall(head + body)
    received = b""
    while not received.endswith(b"\r\n0\r\n\r\n"):  # its end as well, or the next answer would begin with it
        part = caller.recv(65536)
        if not part:
            break
        received += part
    return received.partition(b"\r\n\r\n")[2].split(b"\r\n")[1] if b"\r\n\r\n" in received else b""


def is_cut_off(caller: socket.socket, piece: bytes, limit_s: float = 20.0) -> bool:
    """Send one byte after the other until the server has enough of it."""
    deadline = time.monotonic() + limit_s
    caller.settimeout(0.2)
    while time.monotonic() < deadline:
        try:
            caller.sendall(piece)
            if not caller.recv(65536):
                return True
        except TimeoutError:
            continue
        except OSError:
            return True
    return False


def test_connections_that_say_nothing_keep_no_thread(port):
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(connected(port)) for _number in range(200)]
        started = time.monotonic()
        with connected(port) as caller:
            assert ask(caller) == b"0"
        # gunicorn's own worker would hold its threads for five seconds for each of them.
        assert time.monotonic() - started < 20
        assert ask(idle[-1]) == b"0"


def test_heads_that_come_byte_by_byte_are_cut_off(port):
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connected(port)) for _number in range(THREADS)]
        for one in slow:
            one.sendall(b"GET / HTTP/1.1\r\n")
        assert all(is_cut_off(one, b"x") for one in slow)
        with connected(port) as caller:
            assert ask(caller) == b"0"


def test_bodies_that_come_byte_by_byte_are_cut_off(port):
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connected(port)) for _number in range(THREADS)]
        for one in slow:
            one.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n")
        time.sleep(2.5)
        with connected(port) as caller:
            assert ask(caller) == b"0"


def test_what_comes_of_a_body_that_was_cut_off_is_no_request(port):
    """A proxy that keeps connections would hand the answer to the next one who asks."""
    with connected(port) as caller:
        caller.sendall(b"POST /slow HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nhalf")
        time.sleep(2.0)  # cut off, and the answer is being made
        received = b""
        with contextlib.suppress(OSError):
            caller.sendall(b"GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n")
            while part := caller.recv(65536):
                received += part
    assert received.count(b"HTTP/1.1 ") <= 1


def test_callers_who_do_not_take_their_answers_keep_no_thread(port):
    with contextlib.ExitStack() as stack:
        for _number in range(THREADS):
            stack.enter_context(connected(port)).sendall(b"GET /flood HTTP/1.1\r\nhost: x\r\n\r\n")
        time.sleep(0.5)
        started = time.monotonic()
        with connected(port) as caller:
            assert ask(caller) == b"0"
        assert time.monotonic() - started < 15


def test_callers_who_do_not_hang_up_keep_nobody_waiting(port):
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        for _number in range(10):
            one = stack.enter_context(connected(port))
            assert ask(one, b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n") == b"0"
    # gunicorn's own worker would wait two seconds for each, one after the other.
    assert time.monotonic() - started < 8


def test_large_bodies_kept_connections_and_long_answers_are_left_alone(port):
    with connected(port) as caller:
        head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3000000\r\n\r\n"
        assert ask(caller, head, b"x" * 3_000_000) == b"3000000"
        time.sleep(1.5)
        assert ask(caller) == b"0"
        caller.sendall(b"GET /stream HTTP/1.1\r\nhost: x\r\n\r\n")
        received = b""
        while not received.endswith(b"0\r\n\r\n"):
            part = caller.recv(65536)
            assert part, received
            received += part
        assert received.count(b"word ") == 5


def test_what_is_asked_at_once_is_answered_in_its_order(port):
    """One after the other on kept connections, several in one packet, and with more callers than threads."""
    requests = [b"POST /known HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s" % (n, b"x" * n) for n in range(9)]
    with contextlib.ExitStack() as stack:
        callers = [stack.enter_context(connected(port)) for _number in range(2 * THREADS)]
        for request, expected in zip(requests, range(9), strict=True):
            for caller in callers:
                caller.sendall(request)
            for caller in callers:
                assert answers(caller, 1) == [b"<%s>" % (b"x" * expected)]
        for caller in callers:
            caller.sendall(b"".join(requests))
        for caller in callers:
            assert answers(caller, 9) == [b"<%s>" % (b"x" * n) for n in range(9)]
        callers[0].sendall(b"HEAD /known HTTP/1.1\r\nhost: x\r\n\r\n")
        head = callers[0].recv(65536)
        assert b"content-length: 2" in head.lower()
        assert head.endswith(b"\r\n\r\n"), "no body"


def answers(caller: socket.socket, count: int) -> list[bytes]:
    """Return the bodies of so many answers of known length, and see that nothing comes behind them."""
    received, found = b"", []
    while len(found) < count:
        head, end, rest = received.partition(b"\r\n\r\n")
        if end:
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            if len(rest) >= length:
                found.append(rest[:length])
                received = rest[length:]
                continue
        received += (part := caller.recv(65536))
        assert part, received
    assert received == b""
    return found


def test_a_stop_leaves_long_answers_time_for_closing_words(server):  # the last one: the server ends
    port, program = server
    with connected(port) as caller:
        caller.sendall(b"GET /endless HTTP/1.1\r\nhost: x\r\n\r\n")
        received = caller.recv(65536)
        program.terminate()
        while part := caller.recv(65536):
            received += part
    assert b"word " in received
    assert received.endswith(b"closing words\r\n0\r\n\r\n")


def test_the_master_hears_now_and_then_that_a_worker_lives(monkeypatch):
    now, noted = [100.0], []
    monkeypatch.setattr(gunicorn_worker.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(gunicorn_worker.ThreadWorker, "notify", lambda worker: noted.append(now[0]))
    for timeout, expected in ((120, [100.0, 101.5]), (0, [100.0, 101.5]), (2, [100.0, 100.6, 101.5])):
        worker = object.__new__(gunicorn_worker.BoundedThreads)
        worker.timeout = timeout
        noted.clear()
        for now[0] in (100.0, 100.4, 100.6, 101.0, 101.5):
            worker.notify()
        assert noted == expected

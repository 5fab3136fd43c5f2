"""A real process: clients that go away, a full house, shutdown, a dying parent, and what the log says."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from safetensors.torch import load_file, save_file

from gpu_worker.engine.serve import listening_socket
from tests.gpu_worker.engine.engine_process import (
    KEY,
    NAME,
    ROOT,
    EngineProcess,
    command,
    environment,
    running_engine,
)

pytestmark = pytest.mark.slow

# Longer than any test looks on, however fast a machine writes and however slowly it looks.
LONG = {"max_tokens": 30_000, "temperature": 0}


@pytest.fixture(scope="module")
def long_model_dir(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a much longer context, which never says that it has finished."""
    folder = tmp_path_factory.mktemp("long")
    for file in model_dir.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    # Its logit is 0 now, and among hundreds of others one is always above that.
    weights["model.embed_tokens.weight"][config["eos_token_id"]] = 0
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 32_768}))
    return folder


@pytest.fixture
def engine(long_model_dir: Path, tmp_path: Path) -> Iterator[EngineProcess]:
    options = (
        "--skip-self-check",
        "--max-running",
        "2",
        "--max-waiting",
        "2",
        "--kv-cache-mb",
        "96",
        "--max-context",
        "32768",
    )
    with running_engine(long_model_dir, tmp_path, *options) as engine:
        yield engine


def request_bytes(engine: EngineProcess, *, stream: bool) -> bytes:
    messages = [{"role": "user", "content": "hi"}]
    body = json.dumps({"model": NAME, "messages": messages, "stream": stream, **LONG}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
    return head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body


def running(engine: EngineProcess) -> float:
    return engine.metric("engine_sequences_running")


def wait_for(condition: object, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.01)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_stops_its_generation(engine: EngineProcess, stream: bool) -> None:
    with socket.create_connection((engine.ready["host"], engine.ready["port"])) as connection:
        connection.sendall(request_bytes(engine, stream=stream))
        wait_for(lambda: engine.metric("engine_generated_tokens_total") > 5)
        assert running(engine) == 1
    wait_for(lambda: running(engine) == 0)
    steps = engine.metric("engine_steps_total")
    time.sleep(0.2)
    assert engine.metric("engine_steps_total") == steps
    assert 'reason="cancelled"} 1' in engine.client.get("/metrics").text


def test_a_waiting_client_that_leaves_gives_up_its_place(engine: EngineProcess) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            connection = socket.create_connection((engine.ready["host"], engine.ready["port"]))
            stack.enter_context(connection).sendall(request_bytes(engine, stream=True))
        wait_for(lambda: engine.metric("engine_sequences_waiting") == 1)
    wait_for(lambda: engine.metric("engine_sequences_waiting") == 0)
    wait_for(lambda: running(engine) == 0)


def test_a_full_house_answers_503_with_retry_after(engine: EngineProcess) -> None:
    with contextlib.ExitStack() as stack:
        for number in range(4):
            connection = socket.create_connection((engine.ready["host"], engine.ready["port"]))
            stack.enter_context(connection).sendall(request_bytes(engine, stream=True))
            wait_for(
                lambda n=number: running(engine) + engine.metric("engine_sequences_waiting") == n + 1  # type: ignore[misc]
            )
        response = engine.chat("hello")
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "server_is_overloaded"
        assert 1 <= int(response.headers["Retry-After"]) <= 120
    engine.wait_until_idle()
    assert engine.chat("hello").status_code == 200


def test_sigterm_lets_a_running_answer_finish(engine: EngineProcess) -> None:
    answers: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: answers.append(engine.chat("hi", max_tokens=200)))
    thread.start()
    wait_for(lambda: running(engine) == 1)
    engine.child.send_signal(signal.SIGTERM)
    thread.join(20)
    assert answers[0].status_code == 200
    assert answers[0].json()["usage"]["completion_tokens"] > 0
    assert engine.child.wait(15) == 0


def test_sigterm_ends_within_the_drain_time(engine: EngineProcess, tmp_path: Path) -> None:
    with socket.create_connection((engine.ready["host"], engine.ready["port"])) as connection:
        connection.sendall(request_bytes(engine, stream=True))
        wait_for(lambda: running(engine) == 1)
        begun = time.monotonic()
        engine.child.send_signal(signal.SIGTERM)
        engine.child.wait(25)
        assert 5 < time.monotonic() - begun < 15
    assert not (tmp_path / "engine.json").exists()


def test_the_engine_dies_with_its_parent(long_model_dir: Path, tmp_path: Path) -> None:
    """The parent is killed without a chance to say anything."""
    ready_file = tmp_path / "ready.json"
    script = "import subprocess, sys, time; subprocess.Popen(sys.argv[1:]); time.sleep(600)"
    arguments = command(long_model_dir, ready_file, "--skip-self-check")
    parent = subprocess.Popen([sys.executable, "-c", script, *arguments], env=environment(), cwd=ROOT)
    wait_for(ready_file.exists, 60)
    pid = json.loads(ready_file.read_text())["pid"]
    parent.kill()
    parent.wait()
    wait_for(lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2], 15)


def test_what_an_answer_is_made_of_is_sent_at_once() -> None:
    with listening_socket("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _address = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_no_key_no_service(long_model_dir: Path, tmp_path: Path) -> None:
    child = subprocess.run(
        command(long_model_dir, tmp_path / "ready.json"),
        env=environment(ENGINE_API_KEY=""),
        cwd=ROOT,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert child.returncode == 2
    assert b"ENGINE_API_KEY" in child.stderr


def test_the_log_never_holds_prompt_text(engine: EngineProcess, tmp_path: Path) -> None:
    secret = "Geheimnis-4711"
    engine.chat(secret)
    engine.chat(secret, nonsense=secret)
    engine.post("/v1/completions", model=NAME, prompt=secret, max_tokens=3)
    engine.client.post("/v1/chat/completions", content=secret.encode())
    assert secret not in (tmp_path / "engine.log").read_text()

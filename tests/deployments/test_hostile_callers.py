"""Bad input to /v1 as it is served: a real gunicorn on the test's database in front of a real engine.

Whatever is sent, nobody gets a 500, nobody else waits in vain, and nothing is left over afterwards.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import jsonschema
import pytest

from deployments import services
from gpu_worker.benchmarks.hostile_prompts import hostile_prompts
from portal import tokens
from portal.management.commands.up import is_free
from portal.models import Scope
from portal.rls import team_scope
from tests.deployments.conftest import wait_for
from tests.deployments.on_real_engine import announce, load_wanted
from tests.gpu_worker.engine.engine_process import EngineProcess, running_engine
from tests.gpu_worker.test_exporter import write_adapter
from tests.processes import PROJECT, environment

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]

PROGRAM = """
from portal import gunicorn_worker

gunicorn_worker.HEAD_LIMIT_S = gunicorn_worker.BODY_LIMIT_S = 1.0  # instead of 20 and 30: nobody waits for that here
from portal.wsgi import application
"""
THREADS = 4
CHAT = "/v1/chat/completions"
MODEL = "sorter"
STORED = {
    "type": "object",
    "properties": {"queue": {"type": "string", "enum": ["vpn", "mail"]}, "urgent": {"type": "boolean"}},
    "required": ["queue", "urgent"],
    "additionalProperties": False,
}
OWN = {
    "type": "object",
    "properties": {"почта": {"type": "string", "maxLength": 8}, "n": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["почта", "n"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def engine_process(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    with running_engine(tiny_model_folder, tmp_path_factory.mktemp("engine"), "--skip-self-check") as engine:
        yield engine


@dataclass(frozen=True)
class Served:
    """A running server of /v1 and somebody who may ask it."""

    port: int
    token: str
    master: subprocess.Popen[bytes]
    log: Path

    def ask(self, **changes: object) -> httpx.Response:
        """Ask in good faith."""
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 120, **changes}
        return self.post(json.dumps(body).encode())

    def post(self, content: bytes) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token}"}
        with httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60, trust_env=False) as client:
            return client.post(CHAT, content=content, headers=headers)

    def head(self, *more: str) -> bytes:
        lines = (f"POST {CHAT} HTTP/1.1", "host: 127.0.0.1", f"authorization: Bearer {self.token}", *more, "", "")
        return "\r\n".join(lines).encode()

    def connected(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def open_files(self) -> int:
        """How many files and connections the process that answers has open."""
        (worker,) = Path(f"/proc/{self.master.pid}/task/{self.master.pid}/children").read_text().split()
        return len(os.listdir(f"/proc/{worker}/fd"))


@pytest.fixture
def served(engine_process, team, actor, run, node, base_model, token, tmp_path) -> Iterator[Served]:
    target = announce(engine_process, node, base_model)
    with team_scope(team.pk):
        version = services.deploy_run(team=team, actor=actor, run=run, name=MODEL, response_schema=STORED)
    name = version.adapter.engine_name
    load_wanted(target, node, {name: write_adapter(tmp_path / "weights")})
    (tmp_path / "bounded.py").write_text(PROGRAM)
    port = next(port for port in range(18_900, 19_100) if is_free("127.0.0.1", port))
    command = [
        sys.executable, "-m", "gunicorn", "bounded:application", "--bind", f"127.0.0.1:{port}", "--no-control-socket",
        "--worker-class", "portal.gunicorn_worker.BoundedThreads", "--threads", str(THREADS),
        "--pythonpath", f"{tmp_path},{PROJECT}",
    ]  # fmt: skip
    log = tmp_path / "gunicorn.log"
    with log.open("wb") as output:
        master = subprocess.Popen(
            command,
            cwd=tmp_path,
            env=environment() | {"TUNEPORT_DATABASE_POOL": str(THREADS)},
            stdout=output,
            stderr=output,
        )
    try:
        assert wait_for(lambda: "Booting worker" in log.read_text(), 60), log.read_text()
        yield Served(port, token, master, log)
        engine_process.wait_until_idle()
    finally:
        master.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            master.wait(40)
        master.kill()
        engine_process.post("/v1/unload_lora_adapter", lora_name=name)


def test_a_schema_of_the_deployment_or_the_request_holds_whatever_is_asked(served):
    prompts = [one.text for one in hostile_prompts(1000) if len(one.text.encode()) < 150 and "\0" not in one.text][:24]
    own = {"type": "json_schema", "json_schema": {"name": "own", "strict": True, "schema": OWN}}
    wanted = [({}, STORED), ({"response_format": {"type": "json_schema"}}, STORED), ({"response_format": own}, OWN)]
    for number, prompt in enumerate(prompts):
        options, schema = wanted[number % 3]
        drawn = {"temperature": 1, "seed": number} if number % 2 else {"temperature": 0}
        response = served.ask(messages=[{"role": "user", "content": prompt}], **options, **drawn)
        assert response.status_code == 200, response.text
        choice = response.json()["choices"][0]
        assert choice["finish_reason"] == "stop"
        jsonschema.validate(json.loads(choice["message"]["content"]), schema)
    cut = served.ask(max_tokens=2).json()["choices"][0]
    assert cut["finish_reason"] == "length"


NO_JSON = (
    b"", b"{", b"nul", b'{"model": "sorter", "messages": [{"role": "user", "content": "x"}', b"\xff\xfe\x00{",
    b"[" * 100_000, b'{"a":' * 50_000, b"9" * 5_000, gzip.compress(b"{}"), random.Random(3).randbytes(2_000), b"\0",
    b"--x\r\ncontent-disposition: form-data; name=model\r\n\r\nsorter\r\n--x--\r\n", b"model=sorter",
)  # fmt: skip
SCHEMAS = (
    {"type": "object", "properties": {"a": {"not": {"type": "string"}}}, "required": ["a"]},
    {"$ref": "http://127.0.0.1:1/schema.json"},
    {"$ref": "#/nowhere"},
    {"type": "no such type"},
    {"type": "object", "properties": {"a": {"type": "string", "pattern": "(a+)+(?=b)\\1"}}, "required": ["a"]},
    {"type": "object", "properties": 7},
    json.loads('{"items":' * 200 + "{}" + "}" * 200),
)


def test_garbage_is_refused_in_words(served):
    for content in NO_JSON:
        response = served.post(content)
        assert response.status_code == 400, (content[:40], response.text)
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    for schema in SCHEMAS:
        wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        response = served.ask(response_format=wanted)
        assert response.status_code == 400, (schema, response.text)
        assert response.json()["error"]["code"] in ("unsupported_schema", "invalid_value"), response.text
    assert served.ask().status_code == 200
    assert "Traceback" not in served.log.read_text()


def sent(caller: socket.socket, *parts: bytes) -> bytes:
    """Send as much as is taken, and return what is answered."""
    received = b""
    with suppress(OSError):  # who has refused does not have to read on
        for part in parts:
            caller.sendall(part)
    with suppress(OSError):
        while b"\r\n\r\n" not in received and (part := caller.recv(65536)):
            received += part
    return received


def test_ten_megabytes_and_slow_callers_keep_nobody_waiting(served, engine_process):
    with ThreadPoolExecutor(2 * THREADS) as pool:
        answers = list(pool.map(lambda _number: served.ask().status_code, range(4 * THREADS)))
    assert answers == [200] * 4 * THREADS
    at_first = served.open_files()

    large = b'{"model": "sorter", "messages": [{"role": "user", "content": "' + b"x" * 10 * 2**20 + b'"}]}'
    pieces = [large[start : start + 2**16] for start in range(0, len(large), 2**16)]
    with ExitStack() as stack:
        slow = [stack.enter_context(served.connected()) for _number in range(20 * THREADS)]
        for number, caller in enumerate(slow):
            if number % 4 == 0:
                caller.sendall(b"POST /v1")
            elif number % 4 == 1:
                caller.sendall(served.head("content-length: 1000") + b'{"model')
            elif number % 4 == 2:
                caller.sendall(served.head("transfer-encoding: chunked") + b"2\r\n{")
        for number in range(3):
            with served.connected() as caller:
                assert sent(caller, served.head(f"content-length: {len(large)}"), large).startswith(b"HTTP/1.1 413 ")
            with served.connected() as caller:
                chunks = [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces]
                begun = served.head("transfer-encoding: chunked")
                assert sent(caller, begun, *chunks, b"0\r\n\r\n").startswith(b"HTTP/1.1 413 ")
            for caller in slow:
                with suppress(OSError):
                    caller.sendall(b"x")
            assert served.ask(temperature=1, seed=number).status_code == 200
        with ThreadPoolExecutor(2 * THREADS) as pool:
            answers = list(pool.map(lambda _number: served.ask().status_code, range(4 * THREADS)))
        assert answers == [200] * 4 * THREADS, "and there is a thread for everybody, though the slow ones are there"
        said = [heard(caller) for caller in slow]
    assert not [answer for answer in said if answer.startswith(b"HTTP/1.1 5")]

    assert wait_for(lambda: served.open_files() <= at_first + THREADS, 60), "nothing is kept of those who went"
    assert engine_process.metric("engine_sequences_running") == 0
    assert served.master.poll() is None
    assert "Traceback" not in served.log.read_text()


def heard(caller: socket.socket) -> bytes:
    """Return what was answered so far."""
    caller.settimeout(0.1)
    try:
        return caller.recv(65536)
    except OSError:
        return b""


def in_chunks(content: bytes, size: int) -> bytes:
    pieces = (content[start : start + size] for start in range(0, len(content), size))
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def test_a_body_of_unknown_length_is_read_as_any_other(served):
    question = {"model": MODEL, "messages": [{"role": "user", "content": "Hi, почта"}], "max_tokens": 120, "seed": 1}
    content = json.dumps(question, ensure_ascii=False).encode()
    told = served.post(content)
    assert told.status_code == 200
    wanted = told.json()["choices"]
    for size in (1, 7, len(content)):
        with served.connected() as caller:
            received = sent(caller, served.head("transfer-encoding: chunked"), in_chunks(content, size))
            while part := heard_on(caller):
                received += part
        assert received.startswith(b"HTTP/1.1 200 "), received
        assert json.loads(received.partition(b"\r\n\r\n")[2])["choices"] == wanted
    for line in (b"zz\r\n{}\r\n0\r\n\r\n", b"-1\r\n{}\r\n", b"5\r\n{}\r\n0\r\n\r\n", b"ffffffffffffffffffff\r\n{}"):
        with served.connected() as caller:
            received = sent(caller, served.head("transfer-encoding: chunked"), line)
            assert received.startswith(b"HTTP/1.1 400 "), (line, received)
    with served.connected() as caller:
        caller.sendall(served.head("transfer-encoding: chunked") + b"2\r\n{")
        caller.shutdown(socket.SHUT_WR)  # it never comes to its end
        assert sent(caller).startswith(b"HTTP/1.1 400 ")
    assert served.ask().status_code == 200
    assert "Traceback" not in served.log.read_text()


def test_a_file_of_unknown_length_is_kept_whole(served, team, actor, alice):
    with team_scope(team.pk):
        text = tokens.create_token(team=team, actor=actor, owner=alice, name="files", scopes=list(Scope.values))[1]
    rows = [{"messages": [{"role": "user", "content": f"Nr. {n}"}, {"role": "assistant", "content": "ja"}]}
            for n in range(20_000)]  # fmt: skip
    content = "\n".join(map(json.dumps, rows)).encode()
    assert len(content) > 1024 * 1024, "more than is kept in memory"
    form = (
        b'--x\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
        b'--x\r\ncontent-disposition: form-data; name="file"; filename="rows.jsonl"\r\n\r\n'
        + content
        + b"\r\n--x--\r\n"
    )
    pieces = (form[start : start + 50_000] for start in range(0, len(form), 50_000))
    headers = {"Authorization": f"Bearer {text}", "Content-Type": "multipart/form-data; boundary=x"}
    with httpx.Client(base_url=f"http://127.0.0.1:{served.port}", timeout=120, trust_env=False) as client:
        answer = client.post("/v1/files", content=pieces, headers=headers)
        assert answer.status_code == 200, answer.text
        assert answer.json()["bytes"] == len(content)
        kept = client.get(f"/v1/files/{answer.json()['id']}/content", headers=headers)
        assert kept.content == content


def heard_on(caller: socket.socket) -> bytes:
    """Return what comes next of an answer, b"" at its end."""
    with suppress(OSError):
        return caller.recv(65536)
    return b""

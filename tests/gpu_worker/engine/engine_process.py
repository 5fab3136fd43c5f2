"""A real engine process on the tiny model, and a client for it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.forked import Forked

KEY = "test-key"
NAME = "tiny"
ROOT = Path(__file__).resolve().parents[3]


class EngineProcess:
    """A running `python -m gpu_worker.engine`."""

    def __init__(self, child: Forked, ready: dict[str, Any]) -> None:
        self.child = child
        self.ready = ready
        self.url = f"http://{ready['host']}:{ready['port']}"
        self.client = httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=30, trust_env=False
        )

    def post(self, route: str, **body: Any) -> httpx.Response:
        return self.client.post(route, json=body)

    def chat(self, text: str, model: str = NAME, **options: Any) -> httpx.Response:
        messages = [{"role": "user", "content": text}]
        body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": 12, **options}
        return self.post("/v1/chat/completions", **body)

    def events(self, route: str = "/v1/chat/completions", **body: Any) -> list[Any]:
        """Return the decoded events of a stream; the last is "[DONE]" if it ended well."""
        with self.client.stream("POST", route, json={"stream": True, **body}) as response:
            assert response.status_code == 200, response.read()
            assert response.headers["content-type"].startswith("text/event-stream")
            lines = [line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: ")]
        return [line if line == "[DONE]" else json.loads(line) for line in lines]

    def metric(self, name: str) -> float:
        lines = self.client.get("/metrics").text.splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))

    def wait_until_idle(self) -> None:
        deadline = time.monotonic() + 10
        while self.metric("engine_sequences_running") or self.metric("engine_sequences_waiting"):
            assert time.monotonic() < deadline, "the engine does not come to rest"
            time.sleep(0.02)


def command(model_dir: Path, ready_file: Path, *options: str) -> list[str]:
    fixed = ["--base-model", str(model_dir), "--name", NAME, "--port", "0", "--ready-file", str(ready_file)]
    return [sys.executable, "-m", "gpu_worker.engine", *fixed, "--kv-cache-mb", "4", *options]


def environment(**changes: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return {**kept, "ENGINE_API_KEY": KEY, "OMP_NUM_THREADS": "1", **changes}


@contextlib.contextmanager
def running_engine(model_dir: Path, folder: Path, *options: str) -> Iterator[EngineProcess]:
    ready_file = folder / "engine.json"
    with (folder / "engine.log").open("wb") as log:
        child = Forked(command(model_dir, ready_file, *options), env=environment(), cwd=ROOT, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while not ready_file.exists():
            assert child.poll() is None, (folder / "engine.log").read_text()
            assert time.monotonic() < deadline, "the engine does not get ready"
            time.sleep(0.05)
        yield EngineProcess(child, json.loads(ready_file.read_text()))
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(15)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

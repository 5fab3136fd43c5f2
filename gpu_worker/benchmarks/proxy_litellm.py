"""LiteLLM's proxy as a peer: in an environment of its own, two workers, no database, before the same trivial engine.

It authenticates by one key and counts nothing, so it does less than the portal for each request. Its parts need other
versions than ours, so nothing of it is ever imported here.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gpu_worker.benchmarks.proxy_load import Place

PACKAGE = "litellm[proxy]==1.106.2"
WORKERS = 2
INSTALL_LIMIT_S = 900
START_LIMIT_S = 300
_KEY = "sk-benchmark"


def install(folder: Path, *, progress: Callable[[str], object]) -> str:
    """Make the environment if it is not there; return why it cannot be used, or an empty text."""
    done = folder / "installed"
    if done.exists():
        return ""
    progress(f"installing {PACKAGE} into {folder}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", PACKAGE],
        [str(folder / "bin" / "litellm"), "--version"],
    ):
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_LIMIT_S)
        except subprocess.TimeoutExpired:
            return f"installing took more than {INSTALL_LIMIT_S // 60} minutes"
        except (OSError, subprocess.CalledProcessError) as error:
            words = str(getattr(error, "stderr", "") or error).strip().splitlines()
            return words[-1][:200] if words else type(error).__name__
    done.write_text(PACKAGE, encoding="utf-8")
    return ""


@contextmanager
def running(folder: Path, *, engine_port: int, engine_key: str, port: int) -> Iterator[Place]:
    """Start it in front of the engine and yield where to ask. Raises: RuntimeError if it does not answer in time."""
    engine = {"model": "openai/trivial", "api_base": f"http://127.0.0.1:{engine_port}/v1", "api_key": engine_key}
    config = {
        "model_list": [{"model_name": "trivial", "litellm_params": engine}],
        "general_settings": {"master_key": _KEY},
        "litellm_settings": {"num_retries": 0, "telemetry": False},
    }
    # Prices of models come from its own package, and no program of the portal's database is its business.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DATABASE_", "TUNEPORT_"))}
    environment |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "LITELLM_TELEMETRY": "False"}
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / "config.yaml"
        path.write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
        command = [str(folder / "bin" / "litellm"), "--config", str(path), "--host", "127.0.0.1", "--port", str(port)]
        with (Path(work) / "output").open("wb") as output:
            child = subprocess.Popen(
                [*command, "--num_workers", str(WORKERS), "--timeout_worker_healthcheck", str(START_LIMIT_S)],
                cwd=work,
                env=environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            place = Place("127.0.0.1", port, _KEY)
            _await(place, child, Path(work) / "output")
            yield place
        finally:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def _await(place: Place, child: subprocess.Popen[bytes], output: Path) -> None:
    """Wait for its first answer, for each of the workers."""
    deadline = time.monotonic() + START_LIMIT_S
    answered = 0
    while answered < 2 * WORKERS:
        if time.monotonic() > deadline or child.poll() is not None:
            words = output.read_text(encoding="utf-8", errors="replace").strip()[-500:]
            raise RuntimeError(f"LiteLLM does not answer: {words}")
        try:
            request = urllib.request.Request(f"http://{place.host}:{place.port}/health/liveliness")
            with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310
                answered += answer.status == 200
        except (OSError, urllib.error.URLError):
            time.sleep(0.5)

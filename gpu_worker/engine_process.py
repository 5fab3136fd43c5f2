"""One engine process: started with a clean environment and a fresh key, watched, started again, ended in order."""

from __future__ import annotations

import http.client
import json
import secrets
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from gpu_worker.compiled import CACHE_VARIABLE
from gpu_worker.engine_kinds import (
    TUNEPORT_COMMAND,
    EngineKind,
    free_port,
    tuneport_options,
    vllm_environment,
    vllm_options,
)
from portal.process_table import die_with_parent, signal_group

READY_TIMEOUT_S = 0.5
LARGEST_LOG_BYTES = 16 * 1024 * 1024
# Everything else stays behind: above all the database's address and every secret.
_INHERITED = (
    "PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "OMP_NUM_THREADS", "MKL_NUM_THREADS",
)  # fmt: skip
_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "PYTHONUNBUFFERED": "1",
}


@dataclass(frozen=True)
class EngineSpec:
    """What to serve and where to keep its files."""

    slug: str
    folder: Path
    host: str
    ready_file: Path
    log: Path
    home: Path
    project: Path
    command: Sequence[str] = TUNEPORT_COMMAND
    kind: EngineKind = "tuneport"
    cache: Path | None = None
    """Where it keeps what it compiled for this machine; None: nothing is compiled."""


class EngineProcess:
    """A running engine. Start it from the main thread: the kernel ends it with the thread that started it."""

    def __init__(self, spec: EngineSpec, inherited: Mapping[str, str]) -> None:
        """Start the program. Raises: OSError if that is impossible."""
        self.access_key = secrets.token_urlsafe(32)
        self.started_at = time.monotonic()
        self._spec = spec
        spec.ready_file.parent.mkdir(parents=True, exist_ok=True)
        spec.log.parent.mkdir(parents=True, exist_ok=True)
        spec.ready_file.unlink(missing_ok=True)
        if spec.log.exists() and spec.log.stat().st_size > LARGEST_LOG_BYTES:
            spec.log.replace(spec.log.with_suffix(".log.1"))
        spec.home.mkdir(mode=0o700, exist_ok=True)
        self._port: int | None = None
        if spec.kind == "vllm":
            self._port = free_port(spec.host)
            options = vllm_options(spec.folder, spec.slug, spec.host, self._port)
            own = vllm_environment(self.access_key)
        else:
            options = tuneport_options(spec.folder, spec.slug, spec.host, spec.ready_file)
            own = {"ENGINE_API_KEY": self.access_key}
            if spec.cache is not None:
                own[CACHE_VARIABLE] = str(spec.cache)
        with spec.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*spec.command, *options],
                cwd=spec.project,
                env=clean_environment(inherited, spec.home) | own,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGTERM),
            )

    @property
    def pid(self) -> int:
        """Its process id, and that of its group."""
        return self._process.pid

    def poll(self) -> int | None:
        """Return None while it runs, then its exit code, negative for a signal."""
        return self._process.poll()

    def url(self) -> str | None:
        """Return where it answers, None while it is still loading."""
        if self._port is not None:
            # it writes no ready file: it is ready when it says so
            return f"http://{self._spec.host}:{self._port}" if _is_up(self._spec.host, self._port) else None
        try:
            told = json.loads(self._spec.ready_file.read_text())
        except (OSError, ValueError):
            return None
        return f"http://{self._spec.host}:{told['port']}" if told.get("pid") == self.pid else None

    def terminate(self) -> None:
        """Ask it to finish what it is answering and end."""
        self._process.terminate()

    def kill(self) -> None:
        """End it and everything that it started, at once."""
        signal_group(self.pid, signal.SIGKILL)
        self._process.wait()

    def wait(self, limit_s: float) -> None:
        """Wait for its end after `terminate`; kill it when the time is over."""
        try:
            self._process.wait(max(limit_s, 0))
        except subprocess.TimeoutExpired:
            self.kill()


def _is_up(host: str, port: int) -> bool:
    with closing(http.client.HTTPConnection(host, port, timeout=READY_TIMEOUT_S)) as connection:
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False


def clean_environment(inherited: Mapping[str, str], home: Path) -> dict[str, str]:
    """Return what a child that handles tenants' models may know of our environment."""
    chosen = {name: inherited[name] for name in _INHERITED if name in inherited}
    return {**chosen, **_OFFLINE, "HOME": str(home), "TMPDIR": str(home)}  # no library finds a person's credentials

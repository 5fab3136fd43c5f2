"""One engine process: started with a clean environment and a fresh key, watched, started again, ended in order."""

from __future__ import annotations

import json
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from portal.process_table import die_with_parent, signal_group

COMMAND = (sys.executable, "-m", "gpu_worker.engine")
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
    command: Sequence[str] = COMMAND


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
        options = {
            "--base-model": str(spec.folder),
            "--name": spec.slug,
            "--host": spec.host,
            "--port": "0",
            "--ready-file": str(spec.ready_file),
        }
        flat = [text for option in options.items() for text in option]
        with spec.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*spec.command, *flat],
                cwd=spec.project,
                env=clean_environment(inherited, spec.home) | {"ENGINE_API_KEY": self.access_key},
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


def clean_environment(inherited: Mapping[str, str], home: Path) -> dict[str, str]:
    """Return what a child that handles tenants' models may know of our environment."""
    chosen = {name: inherited[name] for name in _INHERITED if name in inherited}
    return {**chosen, **_OFFLINE, "HOME": str(home), "TMPDIR": str(home)}  # no library finds a person's credentials

"""A whole installation of its own for journeys: embedded database, queue, node agent, engine and web, all real."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[2]
MODEL = "smollm2-135m-instruct"
_SECRETS = ("DATABASE_URL", "DJANGO_SETTINGS_MODULE", "PYTEST_CURRENT_TEST")


@dataclass
class Installation:
    """One running portal in a data folder of its own, whose path has a space in it."""

    folder: Path
    url: str = ""
    email: str = "owner@example.org"
    password: str = ""
    team: str = "triage-team"
    token: str = ""
    process: subprocess.Popen[str] | None = None
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        """Where everything that the processes print ends up."""
        return self.folder / "up.log"

    def manage(self, *arguments: str) -> str:
        """Run a manage.py command of this installation and return what it printed."""
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def prepare(self, model_folder: Path) -> None:
        """Make database, base model, team and token, as an operator would."""
        models = self.folder / "var" / "models"
        models.mkdir(parents=True)
        shutil.copytree(model_folder, models / MODEL, copy_function=_link)
        self.environment = {name: value for name, value in os.environ.items() if name not in _SECRETS}
        self.environment |= {"TUNEPORT_DATA_DIR": str(self.folder / "var"), "TUNEPORT_LOG_LEVEL": "INFO"}
        # With two slots each training has half of the processors: other tests are at work on this machine, too.
        self.environment["TUNEPORT_NODE_SLOTS"] = "2"
        self.manage("prepare")
        told = self.manage("createteam", "Triage team", "--owner", self.email)
        self.password = re.search(r"password (\S+)", told).group(1)  # type: ignore[union-attr]
        self.token = self.manage("createtoken", "--team", "Triage team").split()[-1]

    def start(self) -> None:
        """Start all processes and wait until the portal answers."""
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "up", "--port", str(port)],
                cwd=ROOT,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        self.until(lambda: self._answers(), "the portal to answer", timeout_s=90)

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()[-4000:]
        try:
            return httpx.get(f"{self.url}/healthz", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    def stop(self) -> None:
        """Press Ctrl-C and wait for the end."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(timeout=90)

    def leftovers(self) -> list[str]:
        """Return the command lines of processes that still belong to this installation."""
        mark = os.fsencode(str(self.folder))
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    if mark in (entry / "environ").read_bytes() or mark in (entry / "cmdline").read_bytes():
                        found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
                except OSError:
                    continue
        return [line for line in found if line]

    def pids(self, *words: str) -> list[int]:
        """Return the processes of this installation whose command line holds all `words`."""
        mark, found = os.fsencode(str(self.folder)), []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    line = (entry / "cmdline").read_bytes()
                    if all(os.fsencode(word) in line for word in words) and (
                        mark in line or mark in (entry / "environ").read_bytes()
                    ):
                        found.append(int(entry.name))
                except OSError:
                    continue
        return sorted(found)

    def api(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Call the API with the team's token."""
        headers = {"Authorization": f"Bearer {self.token}", **options.pop("headers", {})}
        return httpx.request(method, self.url + path, headers=headers, timeout=options.pop("timeout", 60), **options)

    def until(self, true: Callable[[], Any], what: str, *, timeout_s: float = 180) -> Any:
        """Wait for something; fail with the end of the log if it does not come."""
        end = time.monotonic() + timeout_s
        while not (result := true()):
            if time.monotonic() > end:
                raise AssertionError(f"waited {timeout_s:.0f} s for {what}\n{self.log.read_text()[-6000:]}")
            time.sleep(0.3)
        return result

    def run_state(self, run: str) -> dict[str, Any]:
        """Return what the API says of a run."""
        answer = self.api("GET", f"/api/runs/{run}/")
        assert answer.status_code == 200, answer.text
        return answer.json()  # type: ignore[no-any-return]

    def finished(self, run: str, *, timeout_s: float = 300) -> dict[str, Any]:
        """Wait until a run has ended and return it."""
        ends = ("succeeded", "failed", "cancelled")
        self.until(lambda: self.run_state(run)["status"] in ends, f"run {run} to end", timeout_s=timeout_s)
        return self.run_state(run)


def _link(source: str, target: str) -> None:
    """Link big files instead of copying them, where the file system can."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

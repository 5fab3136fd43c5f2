"""The installation that the soak runs on: `manage.py up` in a data folder of its own, two teams, trained models."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from gpu_worker.benchmarks.soak_load import FIELDS, User

NAME: Final = "triage"
_LOG_SHOWN: Final = 6000
_START_LIMIT_S: Final = 180.0
_TRAIN_LIMIT_S: Final = 1200.0
_EVERYTHING_MANY: Final = 10**12


@dataclass
class Installation:
    """A running portal. `url`: of the pages and the resource API; `api_url`: of /v1 on its own server."""

    folder: Path
    log: Path
    port: int
    api_port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        """Where its pages are."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def api_url(self) -> str:
        """Where its answers are."""
        return f"http://127.0.0.1:{self.api_port}/v1/"

    def is_up(self, port: int) -> bool:
        """Whether a server answers."""
        from portal.management.commands.up import answers

        return answers("127.0.0.1", port)

    def until(self, true: Callable[[], Any], what: str, limit_s: float = _START_LIMIT_S) -> Any:
        """Wait for something and return it. Raises: RuntimeError with the end of the log if it does not come."""
        end = time.monotonic() + limit_s
        while not (found := true()):
            if time.monotonic() > end or self.process.poll() is not None:
                raise RuntimeError(f"waited for {what}")
            time.sleep(0.25)
        return found


@contextmanager
def running(folder: Path) -> Iterator[Installation]:
    """Start everything as `manage.py up` does and end it as Ctrl-C does."""
    from django.conf import settings

    from portal.management.commands.up import chosen_port

    port, api_port = (chosen_port("127.0.0.1", None, first=first) for first in (18_100, 19_100))
    command = [sys.executable, "manage.py", "up", "--port", str(port), "--api-port", str(api_port), "--node", "soak"]
    log = folder / "up.log"
    environment = {**os.environ, "TUNEPORT_NODE_SLOTS": "2"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=settings.BASE_DIR, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    made = Installation(folder, log, port, api_port, process)
    try:
        made.until(lambda: made.is_up(port) and made.is_up(api_port), "the servers")
        yield made
    except Exception:
        sys.stdout.write(made.log.read_text(errors="replace")[-_LOG_SHOWN:])
        raise
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(90)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def bring_base_model(folder: Path, *, model: Path | None) -> str:
    """Register a base model whose engine always runs, made on the spot without `model`; return its name."""
    from django.core.management import call_command

    from portal.models import BaseModel

    models = folder / "models"
    models.mkdir(exist_ok=True)
    if model is not None:
        shutil.copytree(model, models / model.name, copy_function=_link)
        call_command("basemodels", "embedded")
        return model.name
    from gpu_worker.benchmarks.tiny_model import make_tiny_model

    make_tiny_model(models / "tiny")
    call_command("basemodels", "add-folder", "tiny")
    BaseModel.objects.update(is_allowed=True, source=BaseModel.Source.EMBEDDED)
    return "tiny"


@dataclass(frozen=True)
class TeamAccess:
    """A team of the soak with its tokens."""

    slug: str
    tokens: tuple[str, ...]


def make_team(name: str) -> TeamAccess:
    """Make a team with limits that count but do not bite, without a gate, and with two tokens."""
    from deployments import policies
    from portal import limits, teams, tokens
    from portal.actors import Actor
    from portal.models import Quota, Scope, User
    from portal.rls import team_scope

    person = User.objects.create_user(f"{name.lower()}@example.org", "correct horse battery staple", name=name)
    actor = Actor(user=person)
    team = teams.create_team(name=name, owner=person, actor=actor)
    for kind in (Quota.REQUESTS_PER_MINUTE, Quota.TOKENS_PER_MINUTE, Quota.TOKENS_PER_MONTH):
        limits.set_team_limit(team=team, kind=kind, value=_EVERYTHING_MANY, actor=actor)
    with team_scope(team.pk):
        policies.set_policy(team=team, actor=actor, is_on=False, shares={}, max_median_ms=None)
        made = [
            tokens.create_token(team=team, actor=actor, owner=person, name=f"soak {number}", scopes=list(Scope.values))
            for number in range(2)
        ]
    return TeamAccess(team.slug, tuple(text for _row, text in made))


def train(installation: Installation, team: TeamAccess, *, base_model: str, versions: int) -> None:
    """Import rows, train, and deploy under `NAME` as many versions as asked for, one after the other."""
    headers = {"Authorization": f"Bearer {team.tokens[0]}"}
    with httpx.Client(base_url=installation.url, headers=headers, timeout=60, trust_env=False) as client:
        dataset = _asked(client, "POST", "/api/datasets/", data={"name": "Soak"}, files=_files())
        version = dataset["id"]

        def imported() -> bool:
            found = _asked(client, "GET", f"/api/dataset-versions/{version}/")
            if found["status"] == "failed":
                raise RuntimeError(f"the import failed: {found}")
            return bool(found["status"] == "ready")

        installation.until(imported, "the import")
        for number in range(versions):
            order = {
                "name": f"Soak {number + 1}", "dataset_version": version, "base_model": base_model, "recipe": "fast",
                "hyperparameters": {**_SHORT, "seed": number}, "deploy_as": NAME,
            }  # fmt: skip
            run = _asked(client, "POST", "/api/experiments/", json=order)["id"]
            _wait_for_run(installation, client, run)
        installation.until(lambda: _is_live(client, versions), "the deployment to be ready")


_SHORT: Final = {
    "max_steps": 6, "evaluation_rows": 2, "validation_rows": 2, "max_new_tokens": 24, "learning_rate": 1e-3,
}  # fmt: skip


def _files() -> dict[str, tuple[str, bytes, str]]:
    draw = random.Random(0)  # noqa: S311 - no secret
    parts = {"train": 40, "validation": 8, "test": 8}
    return {f"{part}_file": (f"{part}.csv", _table(draw, part, count), "text/csv") for part, count in parts.items()}


def _table(draw: random.Random, part: str, count: int) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("prompt", "response"))
    for number in range(count):
        chosen = {name: draw.choice(values) for name, values in FIELDS.items()}
        asked = f"Ticket {part} {number}: {chosen['queue']} does not work, urgency {chosen['urgency']}."
        writer.writerow((asked, json.dumps(chosen)))
    return text.getvalue().encode()


def _wait_for_run(installation: Installation, client: httpx.Client, run: str) -> None:
    def ended() -> bool:
        found = _asked(client, "GET", f"/api/runs/{run}/")
        if found["status"] in ("failed", "cancelled"):
            raise RuntimeError(f"the training failed: {found}")
        return bool(found["status"] == "succeeded")

    installation.until(ended, "the training", _TRAIN_LIMIT_S)


def _is_live(client: httpx.Client, number: int) -> bool:
    found = _asked(client, "GET", "/api/deployments/")["results"]
    return any(
        one["name"] == NAME and one["state"] == "ready" and (one["live_version"] or {}).get("number") == number
        for one in found
    )


def promote(client: httpx.Client, number: int) -> None:
    """Let a version of the deployment answer."""
    [one] = [one for one in _asked(client, "GET", "/api/deployments/")["results"] if one["name"] == NAME]
    _asked(client, "POST", f"/api/deployments/{one['id']}/promote/", json={"version": number})


def _asked(client: httpx.Client, method: str, path: str, **options: Any) -> dict[str, Any]:
    response = client.request(method, path, **options)
    if response.status_code >= 400:
        raise RuntimeError(f"{method} {path}: {response.status_code} {response.text[:500]}")
    found: dict[str, Any] = response.json()
    return found


def users_of(installation: Installation, teams: list[TeamAccess], base_model: str, *, count: int) -> list[User]:
    """Return so many users, dealt out to the teams and their tokens."""
    pairs = [(team, token) for team in teams for token in team.tokens]
    chosen = [pairs[number % len(pairs)] for number in range(count)]
    models = (NAME, NAME, f"{NAME}@v1", base_model)
    return [User(installation.api_url, team.slug, token, models) for team, token in chosen]


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)

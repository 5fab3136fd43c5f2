"""Rows of the deployments room: a finished run with its adapter, and an engine that the portal believes in."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator

import pytest
from django.core.servers.basehttp import WSGIServer
from django.utils import timezone

from datasets_app import store
from datasets_app.models import Dataset, DatasetVersion, Split
from datasets_app.rows import CanonicalRow
from deployments import lifecycle, services
from deployments.models import DeploymentVersion, Engine
from experiments.models import Adapter, Run
from portal.actors import Actor
from portal.models import BaseModel, Node, Team
from portal.rls import all_teams, team_scope
from tests.deployments.fake_engine import FakeEngine

SYSTEM = "Turn the ticket into JSON."

# Fifty connect at once: on a busy machine the usual ten who may wait to be accepted are too few.
WSGIServer.request_queue_size = 128


def wait_for(condition: Callable[[], bool], limit_s: float = 5.0) -> bool:
    """Return whether `condition` came true in time."""
    deadline = time.monotonic() + limit_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def write_rows(version: DatasetVersion, split: Split, count: int, *, system: str = SYSTEM) -> None:
    path = version.rows_path(split)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for index in range(count):
        messages = (
            {"role": "system", "content": system},
            {"role": "user", "content": f"{split.value} ticket {index}"},
            {"role": "assistant", "content": json.dumps({"queue": index})},
        )
        rows.append(CanonicalRow(index + 2, messages, index + 1))
    store.write_rows(path, rows)


@pytest.fixture
def make_run(base_model: BaseModel, node: Node) -> Callable[..., Run]:
    """Return a function that makes a finished run with an adapter folder on disk: `make_run(team, "name")`."""

    def make(team: Team, name: str = "First try", *, with_adapter: bool = True) -> Run:
        with team_scope(team.pk):
            dataset = Dataset.unscoped.create(team=team, name=f"Tickets for {name}")
            version = dataset.versions.create(
                team=team, number=1, status=DatasetVersion.Status.READY, train_rows=6, validation_rows=3
            )
            write_rows(version, Split.TRAIN, 6)
            write_rows(version, Split.VALIDATION, 3)
            experiment = team.experiments.create(name=name)
            run = experiment.runs.create(
                team=team,
                number=1,
                dataset_version=version,
                base_model=base_model,
                base_revision=base_model.revision,
                hyperparameters={},
                config_hash="0" * 64,
                status=Run.Status.SUCCEEDED if with_adapter else Run.Status.RUNNING,
                lease_token=None if with_adapter else experiment.pk,
                node=node,
                slot=0,
                started_at=timezone.now(),
            )
            if with_adapter:
                write_adapter(run)
            return run

    return make


def write_adapter(run: Run) -> Adapter:
    adapter = Adapter(team=run.team, run=run, result_of=run, base_model=run.base_model, step=10, size_bytes=7)
    adapter.folder.mkdir(parents=True)
    (adapter.folder / "adapter_config.json").write_text("{}")
    (adapter.folder / "adapter_model.safetensors").write_bytes(b"weights")
    adapter.sha256 = hashlib.sha256(b"weights").hexdigest()
    adapter.save()
    return adapter


@pytest.fixture
def run(team: Team, make_run: Callable[..., Run]) -> Run:
    return make_run(team)


@pytest.fixture
def fake_engine() -> Iterator[FakeEngine]:
    engine = FakeEngine().start()
    yield engine
    engine.shutdown()
    engine.server_close()


@pytest.fixture
def engine(fake_engine: FakeEngine, node: Node, base_model: BaseModel) -> FakeEngine:
    """A fake engine for the tiny model that the database calls ready."""
    Engine.objects.create(
        node=node, base_model=base_model, status=Engine.Status.READY, url=fake_engine.url, access_key=fake_engine.key
    )
    return fake_engine


@pytest.fixture
def load_placements(fake_engine: FakeEngine) -> Callable[[Node], None]:
    """Return a function that does what a node agent does: load every wanted placement, finish promotions."""

    def load(node: Node) -> None:
        for placement in lifecycle.placements_of(node):
            if placement.is_wanted:
                fake_engine.adapters[placement.engine_name] = str(placement.folder)
                lifecycle.placement_ready(placement.id)
        lifecycle.finish_promotions()

    return load


@pytest.fixture
def deployed(
    team: Team, actor: Actor, run: Run, node: Node, engine: FakeEngine, load_placements: Callable[[Node], None]
) -> DeploymentVersion:
    """`demo-triage`, live on the fake engine."""
    with team_scope(team.pk):
        version = services.deploy_run(team=team, actor=actor, run=run, name="demo-triage")
    load_placements(node)
    with all_teams("test reads what it made"):
        return DeploymentVersion.unscoped.select_related("deployment", "adapter").get(pk=version.pk)

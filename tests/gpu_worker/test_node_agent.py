"""The node agent with real child processes (a fake engine): what the database wants is what runs."""

# ruff: noqa: F811 - imported fixtures are parameters of tests
from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from django.db import connection
from django.utils import timezone

import gpu_worker.engine_keeper as keeper_module
import gpu_worker.node as node_module
from deployments import inference, lifecycle, services
from deployments.models import Engine, Placement
from gpu_worker.engine_kinds import EngineProgram
from gpu_worker.node import NodeAgent
from portal.errors import PortalError
from portal.models import BaseModel, Node
from portal.process_table import process_entry
from portal.rls import all_teams, team_scope
from tests.deployments import fake_engine
from tests.deployments.conftest import make_run, run  # noqa: F401 - fixtures
from tests.gpu_worker.engine import simulated_vllm

pytestmark = pytest.mark.slow

FAKE = EngineProgram("tuneport", (sys.executable, str(Path(fake_engine.__file__))))


@pytest.fixture
def agent(transactional_db, base_model, monkeypatch) -> Iterator[NodeAgent]:
    """An agent of the node "local" that is driven by hand, and its children gone at the end."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://secret@nowhere/x")
    monkeypatch.setattr(keeper_module, "FIRST_PAUSE_S", 0.05)
    made = NodeAgent("local", program=FAKE, chores=())
    yield made
    made._end()


@pytest.fixture
def work(agent: NodeAgent) -> Callable[..., None]:
    """Return a function that ticks the agent until a condition holds."""

    def until(condition: Callable[[], object], limit_s: float = 15) -> None:
        deadline = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < deadline, "the agent did not get there in time"
            agent.tick()
            time.sleep(0.02)

    return until


def engine() -> Engine | None:
    return Engine.objects.filter(status=Engine.Status.READY).first()


def placements() -> dict[str, str]:
    with all_teams("test reads placements"):
        return {row.adapter.engine_name: row.status for row in Placement.unscoped.select_related("adapter")}


def models_in(engine: Engine) -> list[str]:
    listed = httpx.get(f"{engine.url}/v1/models", headers={"Authorization": f"Bearer {engine.access_key}"}).json()
    return [model["id"] for model in listed["data"]]


def engine_pid(settings) -> int:
    return json.loads((settings.DATA_DIR / "run" / "engine-local-tiny.json").read_text())["pid"]


def test_a_node_registers_with_what_it_has(agent):
    agent.tick()
    node = Node.objects.get(name="local")
    assert node.is_live
    assert node.device.startswith(("CPU", "1 ×"))
    assert node.memory_bytes > 2**28
    assert not Engine.objects.exists(), "nobody needs the tiny model"


def test_the_shipped_base_model_is_always_served(agent, work, base_model):
    BaseModel.objects.update(source=BaseModel.Source.EMBEDDED)
    work(engine)
    assert models_in(engine()) == ["tiny"]
    BaseModel.objects.update(is_allowed=False)
    work(lambda: not Engine.objects.exists())


def test_it_says_whether_an_engine_has_a_route_for_values(agent, work, monkeypatch):
    BaseModel.objects.update(source=BaseModel.Source.EMBEDDED)
    work(engine)
    assert engine().scores_values
    agent._end()
    monkeypatch.setattr(agent, "_program", EngineProgram("vllm", (sys.executable, simulated_vllm.__file__)))
    agent._keepers.clear()
    agent.tick()
    assert not Engine.objects.get().scores_values


def test_it_says_in_which_weights_an_engine_computes(agent, work, monkeypatch):
    BaseModel.objects.update(source=BaseModel.Source.EMBEDDED)
    monkeypatch.setattr(agent, "_program", dataclasses.replace(FAKE, weights="int8"))
    work(engine)
    assert engine().weights == "int8"


def test_a_deployed_adapter_is_loaded_goes_live_and_answers(agent, work, team, actor, run, settings):
    agent.tick()
    with team_scope(team.pk):
        version = services.deploy_run(team=team, actor=actor, run=run, name="demo")
    work(lambda: placements() == {run.adapter.engine_name: "ready"})
    agent.tick()
    with team_scope(team.pk):
        assert team.deployments.get().live_version == version
    assert models_in(engine()) == ["tiny", run.adapter.engine_name]
    target = inference.resolve(team, "demo")
    body = {"messages": [{"role": "user", "content": "hi"}]}
    answer = inference.complete(inference.admit(target, body, inference.Caller(team, "req_1")))
    assert answer["choices"][0]["message"]["content"].endswith("heard: hi")


def test_a_new_wish_is_fulfilled_within_a_second(agent, work, team, run, make_run):
    agent.tick()
    with team_scope(team.pk):
        services.ensure_placement(adapter=run.adapter)
    work(lambda: placements()[run.adapter.engine_name] == "ready")
    second = make_run(team, "Second").adapter
    with team_scope(team.pk):
        services.ensure_placement(adapter=second)
    started = time.monotonic()
    agent.tick()
    assert placements()[second.engine_name] == "ready"
    assert time.monotonic() - started + node_module.TICK_S < 1


def test_what_is_no_longer_wanted_is_unloaded_and_the_engine_ends(agent, work, team, run, settings):
    agent.tick()
    with team_scope(team.pk):
        services.ensure_placement(adapter=run.adapter)
    work(lambda: "ready" in placements().values())
    pid = engine_pid(settings)
    with team_scope(team.pk):
        Placement.unscoped.update(wanted_until=timezone.now() - timedelta(seconds=1))
    work(lambda: not placements())
    work(lambda: not Engine.objects.exists() and process_entry(pid) is None)


def test_a_dead_engine_is_started_again_with_all_its_adapters(agent, work, team, actor, run, make_run, settings):
    agent.tick()
    adapters = [run.adapter, make_run(team, "Second").adapter]
    with team_scope(team.pk):
        for adapter in adapters:
            services.deploy_run(team=team, actor=actor, run=adapter.run, name=f"demo-{adapter.run.experiment.name[:5]}")
    work(lambda: list(placements().values()) == ["ready", "ready"])
    first_key, pid = engine().access_key, engine_pid(settings)
    os.kill(pid, signal.SIGKILL)
    work(lambda: not engine())
    work(lambda: engine() and list(placements().values()) == ["ready", "ready"])
    assert engine().access_key != first_key
    assert set(models_in(engine())) == {"tiny", *(adapter.engine_name for adapter in adapters)}
    assert engine_pid(settings) != pid


def test_a_restarted_agent_begins_with_nothing_loaded(agent, work, team, run, settings):
    agent.tick()
    with team_scope(team.pk):
        services.ensure_placement(adapter=run.adapter)
    work(lambda: "ready" in placements().values())
    agent._end()
    assert not Node.objects.get().is_live
    assert placements() == {run.adapter.engine_name: "pending"}
    assert not Engine.objects.exists()
    with pytest.raises(PortalError):
        inference.resolve_adapter(team, run.adapter, "run")
    again = NodeAgent("local", program=FAKE, chores=())
    try:
        deadline = time.monotonic() + 10
        while "ready" not in placements().values() and time.monotonic() < deadline:
            again.tick()
            time.sleep(0.02)
        assert placements() == {run.adapter.engine_name: "ready"}
    finally:
        again._end()


def test_an_adapter_that_cannot_be_loaded_fails_with_a_sentence_and_others_are_loaded(agent, work, team, run, make_run):
    agent.tick()
    changed, gone, good = run.adapter, make_run(team, "Gone").adapter, make_run(team, "Good").adapter
    (changed.folder / "adapter_model.safetensors").write_bytes(b"poisoned")
    (gone.folder / "adapter_model.safetensors").unlink()
    with team_scope(team.pk):
        for adapter in (changed, gone, good):
            services.ensure_placement(adapter=adapter)
    work(lambda: "pending" not in placements().values())
    assert placements() == {changed.engine_name: "failed", gone.engine_name: "failed", good.engine_name: "ready"}
    with team_scope(team.pk):
        assert "has changed" in changed.placements.get().error
        assert "missing" in gone.placements.get().error


def test_an_engine_that_does_not_start_is_said_and_tried_again(agent, work, team, run, settings):
    BaseModel.objects.update(slug="broken")
    (settings.DATA_DIR / "models" / "broken").symlink_to(settings.DATA_DIR / "models" / "tiny")
    agent.tick()
    with team_scope(team.pk):
        services.ensure_placement(adapter=run.adapter)
    work(lambda: Engine.objects.filter(status=Engine.Status.FAILED).exists())
    sentence = Engine.objects.get().error
    assert sentence == "The engine of Tiny does not run: it ended with code 1. A platform admin finds more in its log."
    with team_scope(team.pk):
        assert run.adapter.placements.get().error == sentence
    log = (settings.DATA_DIR / "logs" / "engine-local-broken.log").read_text()
    assert log.count("cannot load this model") >= keeper_module.TRIES_BEFORE_FAILED


def test_an_engine_that_hangs_is_replaced(agent, work, team, run, settings, monkeypatch):
    monkeypatch.setattr(keeper_module, "HEALTH_EVERY_S", 0.0)
    monkeypatch.setattr(keeper_module, "HEALTH_MISSES", 2)
    monkeypatch.setattr("deployments.engine_client._HEALTH_TIMEOUT_S", 0.2)
    agent.tick()
    with team_scope(team.pk):
        services.ensure_placement(adapter=run.adapter)
    work(lambda: "ready" in placements().values())
    pid = engine_pid(settings)
    os.kill(pid, signal.SIGSTOP)
    work(lambda: process_entry(pid) is None)
    work(lambda: engine() and "ready" in placements().values())


def test_the_engines_environment_holds_no_secret(agent, work, settings):
    BaseModel.objects.update(source=BaseModel.Source.EMBEDDED)
    work(engine)
    environment = json.loads((settings.DATA_DIR / "run" / "engine-local-tiny.environ").read_text())
    assert environment.pop("ENGINE_API_KEY") == engine().access_key
    assert environment.pop("TUNEPORT_CACHE") == str(settings.DATA_DIR / "compiled")
    assert not {name for name in environment if "SECRET" in name or "DATABASE" in name or "TUNEPORT" in name}
    assert environment["HOME"].startswith(str(settings.DATA_DIR))
    assert environment["HF_HUB_OFFLINE"] == "1"


def test_a_lost_connection_is_opened_again_while_engines_go_on(agent, work, team, run):
    agent.tick()
    with team_scope(team.pk):
        services.ensure_placement(adapter=run.adapter)
    work(lambda: "ready" in placements().values())
    pid = agent._keepers["tiny"].process.pid
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        backend = cursor.fetchone()[0]
    other = connection.copy()
    with other.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s)", [backend])
    other.close()
    for _ in range(3):
        with agent._patience.bearing():
            agent._tick_safely()
    assert agent._keepers["tiny"].process.pid == pid
    assert placements() == {run.adapter.engine_name: "ready"}


def test_the_portals_chores_are_done_and_their_errors_survived(agent, monkeypatch, caplog):
    done: list[str] = []
    monkeypatch.setattr("tests.gpu_worker.test_node_agent.good_chore", lambda: done.append("good"))
    agent._chores = ("tests.gpu_worker.test_node_agent.bad_chore", "tests.gpu_worker.test_node_agent.good_chore")
    agent.tick()
    agent.tick()
    assert done == ["good"], "every ten seconds, not every tick"
    assert "bad_chore failed" in caplog.text


def bad_chore() -> None:
    raise ValueError("a colleague's mistake")


def good_chore() -> None:
    """Replaced in the test."""


def test_the_engine_dies_with_a_killed_agent(agent, work, settings, tmp_path):
    """A child that runs an agent is killed with -9: the kernel ends its engine."""
    import subprocess

    script = tmp_path / "agent.py"
    script.write_text(
        "import sys, time\n"
        "from gpu_worker.engine_process import EngineProcess, EngineSpec\n"
        "from pathlib import Path\n"
        "folder = Path(sys.argv[1])\n"
        "spec = EngineSpec('tiny', folder, '127.0.0.1', folder/'r.json', folder/'l.log', folder/'home', Path.cwd(),\n"
        "                  command=sys.argv[2:])\n"
        "process = EngineProcess(spec, {'PATH': '/usr/bin:/bin'})\n"
        "print(process.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    command = [sys.executable, str(script), str(tmp_path), *FAKE.command]
    environment = {**os.environ, "PYTHONPATH": str(settings.BASE_DIR)}
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=settings.BASE_DIR, env=environment)
    pid = int(parent.stdout.readline())
    assert process_entry(pid)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 5
    while process_entry(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process_entry(pid) is None
    parent.stdout.close()


def test_only_one_agent_serves_a_node(tmp_path):
    from django.core.management.base import CommandError

    from gpu_worker.management.commands.node_agent import only_agent

    first = only_agent(tmp_path / "run" / "node-x.lock")
    with pytest.raises(CommandError, match="already serves"):
        only_agent(tmp_path / "run" / "node-x.lock")
    os.close(first)
    os.close(only_agent(tmp_path / "run" / "node-x.lock"))


def test_lifecycle_reports_may_come_twice_and_late(agent, team, run):
    agent.tick()
    with team_scope(team.pk):
        placement = services.ensure_placement(adapter=run.adapter)
    lifecycle.placement_ready(placement.pk)
    lifecycle.placement_ready(placement.pk)
    with team_scope(team.pk):
        ready_at = Placement.unscoped.get().ready_at
        Placement.unscoped.all().delete()
    lifecycle.placement_ready(placement.pk)
    lifecycle.placement_failed(placement.pk, "late")
    assert ready_at is not None
    assert placements() == {}


def test_what_an_engine_says_of_its_answers_is_noted(agent, work, team, run, settings):
    BaseModel.objects.update(slug="unchecked")
    (settings.DATA_DIR / "models" / "unchecked").symlink_to(settings.DATA_DIR / "models" / "tiny")
    agent.tick()
    with team_scope(team.pk):
        services.ensure_placement(adapter=run.adapter)
    work(lambda: engine() and engine().self_check == "unchecked")
    assert "no reference" in engine().doubt

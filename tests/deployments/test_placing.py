"""Where adapters are placed: by memory and load, beside base models that are loaded, and away from lost nodes."""

from __future__ import annotations

from copy import copy
from datetime import timedelta

import pytest
from django.utils import timezone

from deployments import lifecycle, placing, services
from deployments.models import Engine, InferenceRecord, Placement
from portal.models import BaseModel, Node
from portal.rls import all_teams, team_scope

GB = 2**30
pytestmark = pytest.mark.django_db


def node_of(name: str, memory_gb: float = 0) -> Node:
    return Node.objects.create(name=name, heartbeat_at=timezone.now(), memory_bytes=int(memory_gb * GB))


@pytest.fixture
def large(base_model) -> BaseModel:
    return BaseModel.objects.create(
        slug="large", name="Large", source="local", location="large", revision="1" * 40, size_bytes=10 * GB,
        context_tokens=2048, parameters=5_000_000_000, is_allowed=True,
    )  # fmt: skip


def serve(node: Node, model: BaseModel, status: str = "ready") -> None:
    Engine.objects.create(node=node, base_model=model, status=status, url="http://x", access_key="k")


def test_a_base_model_goes_where_it_fits(large):
    node_of("a-small", 8)
    roomy = node_of("b-roomy", 64)
    assert placing.choose_node(large) == roomy


def test_the_memory_of_one_gpu_counts_since_an_engine_computes_on_one(large):
    several = node_of("a-several", 32)
    Node.objects.filter(pk=several.pk).update(gpus=4)
    single = node_of("b-single", 24)
    assert placing.choose_node(large) == single


def test_what_other_base_models_take_counts(large, base_model):
    full, free = node_of("a-full", 20), node_of("b-free", 20)
    other = BaseModel.objects.create(slug="o", name="O", source="local", location="o", revision="2", size_bytes=9 * GB,
                                     context_tokens=2048, parameters=1)  # fmt: skip
    serve(full, other)
    assert placing.choose_node(large) == free


def test_a_base_model_that_is_loaded_is_shared_until_the_load_differs(team, make_run, base_model, node):
    spare = node_of("spare")
    serve(node, base_model)
    with team_scope(team.pk):
        placed = [services.ensure_placement(adapter=make_run(team, f"R{n}").adapter).node.name for n in range(6)]
    assert placed == ["local"] * 4 + ["local", "spare"], "four adapters weigh as much as the base model"
    serve(spare, base_model)
    assert placing.choose_node(base_model) == spare


def test_larger_nodes_take_more(team, make_run, base_model):
    for name, memory in (("a-small", 16), ("b-large", 64)):
        serve(node_of(name, memory), base_model)
    with team_scope(team.pk):
        Node.objects.filter(name="local").update(heartbeat_at=None)
        names = [services.ensure_placement(adapter=make_run(team, f"R{n}").adapter).node.name for n in range(10)]
    assert names.count("b-large") == 8


def test_a_node_that_is_asked_much_gets_fewer_adapters(team, make_run, base_model, deployed, node):
    """It holds one adapter less, but that one answers two requests a second."""
    idle = node_of("idle")
    serve(idle, base_model)
    with team_scope(team.pk):
        for number in range(2):
            make_run(team, f"R{number}").adapter.placements.create(team=team, node=idle)
        assert placing.choose_node(base_model) == node
        asked = InferenceRecord(team=team, version=deployed, model="x", status=200, duration_ms=9)
        asked.at = timezone.now() - placing.BUSY_TIME
        InferenceRecord.unscoped.bulk_create([copy(asked) for _ in range(600)])
        assert placing.choose_node(base_model) == node, "that was long ago"
        InferenceRecord.unscoped.update(at=timezone.now())
        assert placing.choose_node(base_model) == idle


def test_adapters_take_room_as_well(team, make_run, base_model):
    full, free = node_of("a-full", 8), node_of("b-free", 8)
    for one in (full, free):
        serve(one, base_model)
    with team_scope(team.pk):
        Node.objects.filter(name="local").update(heartbeat_at=None)
        large, *small = (make_run(team, f"R{number}").adapter for number in range(3))
        large.size_bytes = 9 * GB
        large.save()
        large.placements.create(team=team, node=full)
        for adapter in small:
            adapter.placements.create(team=team, node=free)
    assert placing.choose_node(base_model) == free


def test_a_failing_engine_comes_last(base_model, node):
    spare = node_of("spare")
    serve(node, base_model, "failed")
    assert placing.choose_node(base_model) == spare


@pytest.mark.django_db(transaction=True)
def test_two_agents_of_one_database_share_lose_and_take_over(team, actor, make_run, base_model, node, fake_engine):
    """What two node agents ask and report, in turns: each loads its own, and the survivor takes the other's over."""
    Node.objects.all().update(heartbeat_at=None)
    names = ("north", "south")
    agents = [lifecycle.register_node(name=n, address="127.0.0.1", slots=1, device="cpu", memory_bytes=8 * GB)
              for n in names]  # fmt: skip
    for one in agents:
        lifecycle.engine_starts(node=one, base_model=base_model, access_key=fake_engine.key)
        lifecycle.engine_ready(node=one, base_model=base_model, url=fake_engine.url)
    with team_scope(team.pk):
        for number in range(4):
            services.deploy_run(team=team, actor=actor, run=make_run(team, f"R{number}"), name=f"name-{number}")

    def turn(agent: Node) -> int:
        lifecycle.beat(agent)
        lifecycle.place_missing()
        lifecycle.move_from_lost_nodes(agent)
        wanted = [state for state in lifecycle.placements_of(agent) if state.is_wanted]
        for state in wanted:
            lifecycle.placement_ready(state.id)
        lifecycle.finish_promotions()
        return len(wanted)

    assert [turn(agent) for agent in agents] == [2, 2], "spread evenly"
    Node.objects.filter(name="north").update(heartbeat_at=timezone.now() - timedelta(minutes=5))
    assert turn(agents[1]) == 4
    with all_teams("test"):
        assert set(Placement.unscoped.values_list("node__name", "status")) == {("south", "ready")}
    with team_scope(team.pk):
        assert team.deployments.filter(live_version__isnull=False).count() == 4
    assert lifecycle.register_node(name="north", address="127.0.0.1", slots=1, device="cpu", memory_bytes=8 * GB)
    assert [turn(agents[1]), len(lifecycle.placements_of(agents[0]))] == [4, 0], "what works stays where it is"

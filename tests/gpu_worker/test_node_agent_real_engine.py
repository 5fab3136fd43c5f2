# ruff: noqa: F811 - imported fixtures are parameters of tests
"""The agent with the real engine on the tiny model: from a deployed run to an answer through /v1, token by token."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections.abc import Iterator

import pytest
from openai import BadRequestError, OpenAI

from deployments import services
from deployments.models import Engine, Placement
from experiments.models import Run
from gpu_worker.node import NodeAgent
from portal.models import BaseModel
from portal.rls import all_teams, team_scope
from tests.deployments.conftest import SYSTEM, make_run  # noqa: F401 - a fixture
from tests.gpu_worker.engine.reference import Reference, make_adapter

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]
QUESTION = "The printer does not print"


@pytest.fixture
def agent(transactional_db, base_model) -> Iterator[NodeAgent]:
    BaseModel.objects.update(source=BaseModel.Source.EMBEDDED)
    made = NodeAgent("local", chores=())
    yield made
    made._end()


def until(agent: NodeAgent, condition, limit_s: float = 120) -> float:
    """Tick until the condition holds; return how long that took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < limit_s, "the agent did not get there in time"
        agent.tick()
        time.sleep(0.05)
    return time.monotonic() - started


def give_real_weights(run: Run, *, seed: int) -> None:
    make_adapter(
        run.base_model.folder, run.adapter.folder, seed=seed, r=4, lora_alpha=8, target_modules="all-linear",
        task_type="CAUSAL_LM",
    )  # fmt: skip
    weights = (run.adapter.folder / "adapter_model.safetensors").read_bytes()
    with all_teams("test gives the adapter real weights"):
        type(run.adapter).unscoped.filter(pk=run.adapter.pk).update(sha256=hashlib.sha256(weights).hexdigest())


def statuses() -> list[str]:
    with all_teams("test reads placements"):
        return list(Placement.unscoped.values_list("status", flat=True))


def test_deployed_adapters_answer_as_transformers_does(
    agent, live_server, team, actor, token, make_run, base_model, settings
):
    agent.tick()
    runs = [make_run(team, name) for name in ("First", "Second")]
    for number, run in enumerate(runs):
        give_real_weights(run, seed=number)
        with team_scope(team.pk):
            services.deploy_run(team=team, actor=actor, run=run, name=f"model-{number}")
    until(agent, lambda: statuses() == ["ready", "ready"])

    client = OpenAI(base_url=f"{live_server.url}/v1", api_key=token, max_retries=0, _strict_response_validation=True)
    reference = Reference(base_model.folder, {run.adapter.engine_name: run.adapter.folder for run in runs})
    names = {"model-0": runs[0].adapter.engine_name, "model-1": runs[1].adapter.engine_name, "tiny": None}
    for name, adapter in names.items():
        expected = expected_text(reference, base_model, adapter, system=SYSTEM if adapter else None)
        asked = {"model": name, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 24}
        whole = client.chat.completions.create(**asked)
        assert whole.choices[0].message.content == expected
        chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == expected
        assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
        assert {chunk.model for chunk in chunks} == {name}

    check_the_rest_of_the_surface(client)

    engine_pid = json.loads((settings.DATA_DIR / "run" / "engine-local-tiny.json").read_text())["pid"]
    os.kill(engine_pid, signal.SIGKILL)
    until(agent, lambda: not Engine.objects.filter(status="ready").exists())
    until(agent, lambda: Engine.objects.filter(status="ready").exists() and statuses() == ["ready", "ready"])
    again = client.chat.completions.create(
        model="model-0", messages=[{"role": "user", "content": QUESTION}], max_tokens=24
    )
    assert again.choices[0].message.content == expected_text(reference, base_model, names["model-0"], system=SYSTEM)


def check_the_rest_of_the_surface(client: OpenAI) -> None:
    """What the fake engine cannot prove: the shapes of the real one pass the SDK's strict eyes."""
    ask = {"model": "model-0", "messages": [{"role": "user", "content": QUESTION}]}
    asked = {"model": "model-0", "prompt": "The queue is", "max_tokens": 5, "temperature": 0}
    continued = client.completions.create(**asked, logprobs=1)
    assert continued.choices[0].finish_reason in ("stop", "length")
    # The SDK's model of a streamed completion demands a finish reason in every chunk, which OpenAI's own stream lacks.
    lax = OpenAI(base_url=client.base_url, api_key=client.api_key, max_retries=0)
    pieces = [chunk.choices[0].text for chunk in lax.completions.create(**asked, stream=True)]
    assert "".join(pieces) == continued.choices[0].text
    several = client.chat.completions.create(
        **ask, n=2, temperature=1, seed=3, stop=["x"], max_tokens=6, logprobs=True, top_logprobs=2
    )
    assert len(several.choices) == 2
    assert all(len(token.top_logprobs) == 2 for token in several.choices[0].logprobs.content)
    repeated = client.chat.completions.create(**ask, n=2, temperature=1, seed=3, stop=["x"], max_tokens=6)
    assert [c.message.content for c in repeated.choices] == [c.message.content for c in several.choices]
    with pytest.raises(BadRequestError) as caught:
        client.chat.completions.create(model="model-0", messages=[{"role": "user", "content": "long " * 2000}])
    assert caught.value.code == "context_length_exceeded"
    assert "adapter-" not in str(caught.value)


def expected_text(reference: Reference, base_model: BaseModel, adapter: str | None, *, system: str | None) -> str:
    from datasets_app.rendering import ChatRenderer

    renderer = ChatRenderer.load(base_model.folder)
    messages = [{"role": "user", "content": QUESTION}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    ids = reference.generate(renderer.prompt_ids(messages), adapter, 24)
    return renderer.decode([token for token in ids if token not in renderer.eos_ids])

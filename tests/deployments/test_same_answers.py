"""Decisions are what the deployment writes: asked by the official SDK of a model that has learned its answers.

The tests' two-layer model is trained for some seconds by the project's own trainer and served by its own engine.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI
from safetensors.numpy import load_file, save_file

from deployments import services
from portal.rls import team_scope
from tests.deployments.conftest import SYSTEM
from tests.deployments.on_real_engine import announce, load_wanted
from tests.deployments.sdk import sdk
from tests.gpu_worker.engine.engine_process import EngineProcess, running_engine
from tests.gpu_worker.trainer.jobs import run_process, write_job
from tests.tiny_model import make_tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.django_db]

LEARNED = {
    "printer": {"queue": "Hardware", "note": "seen", "urgency": "Low", "known": True},
    "password": {"queue": "Access", "note": "seen", "urgency": "High", "known": True},
    "invoice": {"queue": "Billing", "note": "new", "urgency": "Low", "known": False},
    "network": {"queue": "Network", "note": "new", "urgency": "High", "known": False},
}
OTHERWISE = {"topic": "network", "share": 0.3, "urgency": "Low"}
"""What people disagree about, so that the model learns an answer that has more than half, but not all."""
VALUES = {
    "queue": ["Access", "Billing", "Hardware", "Network"],
    "urgency": ["High", "Low"],
    "known": [False, True],
}
SCHEMA = {
    "type": "object",
    "properties": {
        "queue": {"type": "string", "enum": VALUES["queue"]},
        "note": {"type": "string", "maxLength": 8},
        "urgency": {"type": "string", "enum": VALUES["urgency"]},
        "known": {"type": "boolean"},
    },
    "required": ["queue", "note", "urgency", "known"],
    "additionalProperties": False,
}
QUESTIONS = [
    {"type": "choice", "name": name, "choices": [{"value": value} for value in values]}
    for name, values in VALUES.items()
]
VAGUE = ["The printer and the password", "Nothing works.", "Hello?", "Не работает."]


def tickets(count: int, seed: int) -> list[tuple[str, str]]:
    """Topics, and texts about them of different lengths."""
    chance = random.Random(seed)
    topics = [chance.choice(sorted(LEARNED)) for _ in range(count)]
    return [(topic, "Again " * chance.randint(0, 4) + f"the {topic}") for topic in topics]


def rows(count: int, seed: int) -> list[dict]:
    made, chance = [], random.Random(seed)
    for number, (topic, text) in enumerate(tickets(count, seed)):
        answer = dict(LEARNED[topic])
        if topic == OTHERWISE["topic"] and chance.random() < OTHERWISE["share"]:
            answer["urgency"] = OTHERWISE["urgency"]
        said = (("system", SYSTEM), ("user", text), ("assistant", json.dumps(answer)))
        made.append({"row": number + 2, "messages": [{"role": role, "content": text} for role, text in said]})
    return made


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tests' base model with larger logits: as it is, none of its tokens can get much more than half."""
    folder = make_tiny_model(tmp_path_factory.mktemp("base") / "tiny")
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] *= 4
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def learned(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the adapter that was trained."""
    job = write_job(
        tmp_path_factory.mktemp("learning") / "job", base, train=rows(128, seed=0), epochs=12, batch_size=8,
        learning_rate=5e-3,
    )  # fmt: skip
    code, _events, errors = run_process(job)
    assert code == 0, errors
    return job.root / "adapter"


@pytest.fixture(scope="module")
def engine_process(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    with running_engine(base, tmp_path_factory.mktemp("engine"), "--skip-self-check") as engine:
        yield engine


@pytest.fixture
def client(engine_process, learned, team, actor, run, node, base_model, token) -> OpenAI:
    target = announce(engine_process, node, base_model)
    with team_scope(team.pk):
        version = services.deploy_run(team=team, actor=actor, run=run, name="sorter", response_schema=SCHEMA)
    load_wanted(target, node, {version.adapter.engine_name: learned})
    return sdk(token)


def test_decisions_are_what_the_deployment_writes_wherever_that_has_more_than_half(client):
    """More than half of what the model could write at all, which is what the logprobs of an answer add up to."""
    texts = [text for _topic, text in tickets(24, seed=9)]
    shares = []
    for text in [*texts, *VAGUE]:
        asked = {"model": "sorter", "messages": [{"role": "user", "content": text}], "temperature": 0}
        (written,) = client.chat.completions.create(**asked, logprobs=True).choices
        share = math.exp(math.fsum(token.logprob for token in written.logprobs.content))
        if share <= 0.5:
            continue
        shares.append(share)
        decided = client.decisions.create(model="sorter", input=text, questions=QUESTIONS).answers
        fields = json.loads(written.message.content)
        assert {one.name: one.choice for one in decided} == {name: fields[name] for name in VALUES}, text
        assert min(one.confidence for one in decided) > share - 0.01, "each is as likely as the whole answer, or more"
    assert len(shares) >= len(texts) * 3 / 4, "the model has learned, so agreeing means something"
    assert min(shares) < 0.9 < max(shares), "it is sure of some answers, and of others only more than half"

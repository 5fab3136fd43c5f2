"""What is served is what was evaluated: the same model says the same probabilities of the same row on both ways."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deployments import engine_client
from deployments.deciding import Decider
from deployments.engine_client import EngineTarget
from deployments.inference import Caller, Target
from experiments.hyperparameters import Hyperparameters
from experiments.problem_file import Problem
from experiments.scoring.calibration import probabilities
from gpu_worker.engine.build import build_core
from gpu_worker.engine.config import EngineConfig
from gpu_worker.evaluator.choices import Chooser
from gpu_worker.evaluator.problems import ProblemScorer
from tests.gpu_worker.engine.engine_process import KEY, running_engine

pytestmark = pytest.mark.slow

QUEUES = ("Network", "Network access", "Mail")
SCHEMA = {
    "type": "object",
    "properties": {
        "queue": {"type": "string", "enum": list(QUEUES)},
        "level": {"type": "integer", "enum": [1, 2, 3]},
        "note": {"type": "string", "maxLength": 4},
        "urgent": {"type": "boolean"},
    },
    "required": ["queue", "level", "note", "urgent"],
    "additionalProperties": False,
}
ASKED = [{"role": "system", "content": "Sort tickets."}, {"role": "user", "content": "The VPN drops every hour."}]
CALLER = Caller(team=SimpleNamespace(pk="one"), request_id="")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def target(model_dir: Path, adapter_dirs: dict[str, Path], tmp_path_factory: Any) -> Iterator[Target]:
    with running_engine(model_dir, tmp_path_factory.mktemp("engine"), "--skip-self-check") as engine:
        where = EngineTarget(engine.url, KEY)
        engine_client.load_adapter(where, name="north", folder=adapter_dirs["north"])
        yield Target(where, "north", "demo", "fp", decision_schema=SCHEMA, labels=QUEUES)


@pytest.fixture(scope="module")
def core(model_dir: Path, renderer: Any, adapter_dirs: dict[str, Path]) -> Any:
    core = build_core(model_dir, renderer, EngineConfig())
    core.add_adapter("north", core.read_adapter(adapter_dirs["north"]))
    return core


def evaluated(core: Any, renderer: Any, answer: str) -> dict[str, dict[str, float]]:
    chooser = Chooser(core.likelihoods(), renderer, SCHEMA, core.find_adapter("north"), cache_salt="evaluation")
    chosen = chooser.answer(renderer.prompt_ids(ASKED), answer)
    return {name: {label: math.exp(p) for label, p in one.logprobs.items()} for name, one in chosen.choices.items()}


def test_fields_are_as_likely_when_served_as_they_were_in_the_evaluation(target, core, renderer):
    answer = json.dumps({"queue": "Mail", "level": 2, "note": "über", "urgent": True})
    expected = evaluated(core, renderer, answer)
    served = Decider(target, ASKED, CALLER, answer=answer)
    for name, shares in expected.items():
        assert dict(served.of_field(name).shares) == pytest.approx(shares, abs=1e-4)
    assert max(expected["urgent"].values()) < 0.9999, "of a model that knows nothing nothing is certain"
    alone = Decider(target, ASKED, CALLER)
    assert dict(alone.of_field("level").shares) == pytest.approx(expected["level"], abs=1e-4)
    assert alone.usage.written == 0, "what stands before it is closed, so nothing has to be written"


def test_what_stands_behind_an_open_field_is_decided_behind_what_the_model_writes(target, core, renderer):
    served = Decider(target, ASKED, CALLER)
    shares = served.of_field("urgent").shares
    assert served.usage.written > 0
    assert dict(shares) == pytest.approx(evaluated(core, renderer, served._answer)["urgent"], abs=1e-4)
    written = json.loads(served._answer)
    assert set(written) == set(SCHEMA["properties"]), "held to the schema"
    other = evaluated(core, renderer, json.dumps({**written, "note": "else"}))["urgent"]
    assert dict(shares) != pytest.approx(other, abs=1e-4), "it depends on the open field"


def test_labels_are_as_likely_when_served_as_they_were_in_the_evaluation(target, core, renderer):
    scorer = ProblemScorer(core, renderer, Problem("classification", labels=QUEUES), Hyperparameters())
    content = {"messages": [*ASKED, {"role": "assistant", "content": "Mail"}]}
    expected = probabilities(scorer.label_logprobs(content, core.find_adapter("north")), 1.0)
    shares = Decider(target, ASKED, CALLER).of_labels().shares
    assert dict(shares) == pytest.approx(dict(zip(QUEUES, expected, strict=True)), abs=1e-4)

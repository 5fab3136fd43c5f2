"""The embedded base model itself: mixed adapters, schema and cache against transformers, on a handful of prompts."""

import json
from pathlib import Path

import jsonschema
import pytest

from datasets_app.rendering import ChatRenderer
from gpu_worker.engine.build import build_core
from gpu_worker.engine.config import EngineConfig
from gpu_worker.engine.grammar import GrammarCompiler
from tests.gpu_worker.engine.driver import Driver
from tests.gpu_worker.engine.reference import Reference, make_adapter

MODEL = Path(__file__).resolve().parents[3] / "var" / "models" / "smollm2-135m-instruct"
SYSTEM = {"role": "system", "content": "Route the support ticket: answer with JSON."}
TICKETS = (
    "The printer on the third floor does not print.",
    "Не могу войти в почту.",
    "Please reset my password, Anna.",
)
SCHEMA = {
    "type": "object",
    "properties": {"queue": {"type": "string", "enum": ["Access", "Printing"]}, "urgent": {"type": "boolean"}},
    "required": ["queue", "urgent"],
    "additionalProperties": False,
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MODEL.exists(), reason="the embedded base model has not been made yet"),
]


def test_mixed_requests_equal_transformers_and_schemas_hold(tmp_path: Path) -> None:
    options = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
    adapters = {
        name: make_adapter(MODEL, tmp_path / name, seed=seed, scale=0.02, **options)
        for seed, name in enumerate(("a", "b"))
    }
    renderer = ChatRenderer.load(MODEL)
    driver = Driver(build_core(MODEL, renderer, EngineConfig(prefill_tokens=48)), renderer)
    for name, path in adapters.items():
        driver.core.add_adapter(name, driver.core.read_adapter(path))
    prompts = {ticket: renderer.prompt_ids([SYSTEM, {"role": "user", "content": ticket}]) for ticket in TICKETS}
    for ticket, ids in prompts.items():
        for adapter in (None, "a", "b"):
            driver.submit(f"{adapter} {ticket}", ids, adapter, max_tokens=10)
    answers = driver.run()
    reference = Reference(MODEL, adapters)
    for ticket, ids in prompts.items():
        for adapter in (None, "a", "b"):
            assert answers[f"{adapter} {ticket}"].token_ids == reference.generate(ids, adapter, 10)
    again = driver.answer(prompts[TICKETS[0]], "a", max_tokens=10)
    assert again.cached_tokens > 0
    assert again.token_ids == answers[f"a {TICKETS[0]}"].token_ids
    compiler = GrammarCompiler(MODEL, vocabulary=driver.core.vocabulary, eos_ids=renderer.eos_ids)
    answer = driver.answer(prompts[TICKETS[1]], "b", max_tokens=40, grammar=compiler.compile(SCHEMA).start())
    jsonschema.validate(json.loads(answer.text), SCHEMA)

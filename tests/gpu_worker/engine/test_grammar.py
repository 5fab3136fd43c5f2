"""Answers within a schema: always valid, and the same with and without drafting the forced text."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from datasets_app.rendering import ChatRenderer
from gpu_worker.engine.errors import BadRequest
from gpu_worker.engine.grammar import GrammarCompiler
from gpu_worker.engine.sequence import FinishReason
from tests.gpu_worker.engine.driver import Answer, Driver, make_driver

# The first of them waits for PEFT and transformers to be imported.
pytestmark = pytest.mark.slow
TRIAGE = {
    "type": "object",
    "properties": {
        "queue": {"type": "string", "enum": ["Access", "Network", "Card Logistics"]},
        "category": {"type": "string", "enum": ["bug", "question", "Не работает"]},
        "urgent": {"type": "boolean"},
        "user_id": {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 999}, {"type": "null"}]},
    },
    "required": ["queue", "category", "urgent", "user_id"],
    "additionalProperties": False,
}
PROMPT = [3, 40, 41, 42, 43]


@pytest.fixture(scope="module")
def compiler(model_dir: Path, renderer: ChatRenderer) -> GrammarCompiler:
    return GrammarCompiler(model_dir, vocabulary=384, eos_ids=renderer.eos_ids)


def answers(driver: Driver, compiler: GrammarCompiler, **params: Any) -> dict[str, Answer]:
    """Base and adapters together, some of them without a schema."""
    for number in range(9):
        adapter = (None, "north", "south")[number % 3]
        grammar = None if number >= 6 else compiler.compile(TRIAGE).start()
        limit = 12 if grammar is None else 80
        driver.submit(f"{number}", [*PROMPT, 50 + number], adapter, max_tokens=limit, grammar=grammar, **params)
        if number % 2:
            driver.step()
    return driver.run()


@pytest.mark.slow
@pytest.mark.parametrize("params", [{}, {"temperature": 1.2, "seed": 4}], ids=["greedy", "sampled"])
def test_drafting_changes_nothing_but_the_number_of_steps(
    model_dir: Path,
    renderer: ChatRenderer,
    adapter_dirs: dict[str, Path],
    compiler: GrammarCompiler,
    params: dict[str, Any],
) -> None:
    drafted = make_driver(model_dir, renderer, adapter_dirs)
    plain = make_driver(model_dir, renderer, adapter_dirs, draft_tokens=0)
    short = make_driver(model_dir, renderer, adapter_dirs, draft_tokens=2, prefill_tokens=3)
    found = [answers(driver, compiler, **params) for driver in (drafted, plain, short)]
    assert found[0] == found[1] == found[2]
    steps = [driver.core.stats().steps for driver in (drafted, plain)]
    assert steps[0] < steps[1]
    for number in range(6):
        answer = found[0][f"{number}"]
        assert answer.finish_reason is FinishReason.STOP
        jsonschema.validate(json.loads(answer.text), TRIAGE)
    assert len({answer.text for answer in found[0].values()}) > 1


def test_forced_text_costs_few_steps(driver: Driver, compiler: GrammarCompiler) -> None:
    """A schema with one possible answer is one step: the prompt and all of the answer."""
    schema = {
        "type": "object",
        "properties": {"a": {"const": "yes"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    answer = driver.answer(PROMPT, "north", max_tokens=40, grammar=compiler.compile(schema).start())
    assert json.loads(answer.text) == {"a": "yes"}
    assert driver.core.stats().steps <= 2


def test_max_tokens_cuts_within_the_schema(driver: Driver, compiler: GrammarCompiler) -> None:
    whole = driver.answer(PROMPT, max_tokens=80, grammar=compiler.compile(TRIAGE).start())
    for limit in range(1, 8):
        cut = driver.answer(PROMPT, max_tokens=limit, grammar=compiler.compile(TRIAGE).start())
        assert cut.token_ids == whole.token_ids[:limit]
        assert cut.finish_reason is FinishReason.LENGTH


def test_only_whole_answers_are_complete(driver: Driver, compiler: GrammarCompiler) -> None:
    grammar = compiler.compile(TRIAGE)
    whole = driver.answer(PROMPT, max_tokens=80, grammar=grammar.start()).token_ids
    assert grammar.is_complete(whole)
    assert grammar.is_complete(whole[:-1])  # without the token that ends it
    assert not grammar.is_complete(whole[:-2])
    assert not grammar.is_complete([*whole[:-1], whole[0]])
    assert not grammar.is_complete(())


def test_what_a_stop_text_cuts_inside_a_schema_is_not_called_whole(driver: Driver, compiler: GrammarCompiler) -> None:
    answer = driver.answer(PROMPT, max_tokens=80, grammar=compiler.compile(TRIAGE).start(), stop=('", "category',))
    assert answer.finish_reason is FinishReason.LENGTH
    assert answer.text.startswith('{"queue": "')
    assert "category" not in answer.text


def test_a_stop_text_at_the_very_end_of_a_schema_is_no_whole_answer_either(
    driver: Driver, compiler: GrammarCompiler
) -> None:
    answer = driver.answer(PROMPT, max_tokens=80, grammar=compiler.compile(TRIAGE).start(), stop=("}",))
    assert answer.finish_reason is FinishReason.LENGTH
    assert json.loads(answer.text + "}")
    never = driver.answer(PROMPT, max_tokens=80, grammar=compiler.compile(TRIAGE).start(), stop=("\n",))
    assert never.finish_reason is FinishReason.STOP
    assert json.loads(never.text)


def test_any_json_object(driver: Driver, compiler: GrammarCompiler) -> None:
    answer = driver.answer(PROMPT, max_tokens=200, grammar=compiler.compile({"type": "object"}).start())
    assert answer.text.startswith("{")
    if answer.finish_reason is FinishReason.STOP:
        assert isinstance(json.loads(answer.text), dict)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nonsense"},
        {"$ref": "http://example.com/schema"},
        {"$ref": "#/definitions/missing"},
        {"type": "object", "properties": {"a": {"not": {"type": "string"}}}},
        {"type": "array", "uniqueItems": True},
        {"x-guidance": {"lenient": True}, "type": "object"},
        {"type": "string", "enum": ["x" * 70_000]},
        {"type": "string", "pattern": "("},
    ],
)
def test_schemas_outside_the_subset_are_refused(compiler: GrammarCompiler, schema: dict[str, Any]) -> None:
    with pytest.raises(BadRequest) as refusal:
        compiler.compile(schema)
    assert refusal.value.code == "unsupported_schema"
    assert refusal.value.param == "response_format"


def test_a_schema_is_compiled_once(compiler: GrammarCompiler) -> None:
    assert compiler.compile(TRIAGE) is compiler.compile(dict(TRIAGE))

"""The check of answers against schemas: it holds the engine to them, and would notice one that breaks out."""

import json

import jsonschema
import pytest

from gpu_worker.benchmarks import schemas
from gpu_worker.benchmarks.hostile_prompts import KINDS, LONG, SEVERAL, hostile_prompts
from gpu_worker.benchmarks.schema_requests import schema_requests
from gpu_worker.benchmarks.schemas import FAILED, INVALID, LENGTH, REFUSED, VALID, Answer, judge, render
from gpu_worker.engine.sequence import FinishReason

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 3}}, "required": ["n"]}


@pytest.mark.parametrize(
    ("text", "reason", "verdict"),
    [
        ('{"n": 3}', FinishReason.STOP, VALID),
        ('{"n": 4}', FinishReason.STOP, INVALID),
        ('{"n": 3, "n": 2}', FinishReason.STOP, INVALID),
        ('{"n": 3', FinishReason.STOP, INVALID),
        ('{"n": 3', FinishReason.LENGTH, LENGTH),
        ('{"n": 3', FinishReason.ERROR, FAILED),
    ],
)
def test_verdicts(text: str, reason: FinishReason, verdict: str) -> None:
    assert judge(Answer(text, reason), SCHEMA) == verdict
    assert judge(None, SCHEMA) == REFUSED


def test_requests_are_different_and_their_schemas_sound() -> None:
    requests = schema_requests(1000, 80)
    assert len({one.prompt for one in requests}) == 1000
    kinds = {json.dumps(one.schema) for one in requests}
    assert len(kinds) == 100
    for kind in kinds:
        jsonschema.Draft202012Validator.check_schema(json.loads(kind))
    for word in ("enum", "pattern", "format", "maxItems", "$ref", "minimum", "null"):
        assert any(f'"{word}"' in kind for kind in kinds)
    known = [one for one in requests if one.is_known]
    assert (len(known), len({json.dumps(one.schema) for one in known})) == (500, 20)
    # each schema is met greedily and sampled
    assert len({(json.dumps(one.schema), one.seed is None) for one in requests}) == 200


def test_every_kind_of_hostile_text_is_asked() -> None:
    prompts = hostile_prompts(1000)
    assert {one.kind for one in prompts} == {*KINDS, LONG, SEVERAL}
    everything = "\n".join(one.text for one in prompts)
    for kind, pieces in KINDS.items():
        assert [piece for piece in pieces if piece not in everything] == [], kind
    assert max(len(one.text) for one in prompts) > 4000
    assert hostile_prompts(1000) == prompts


def test_the_page_counts_by_kind_and_holds_the_bar() -> None:
    requests = schema_requests(4, 2)
    page = render(requests, [VALID, LENGTH, VALID, VALID])
    assert "| **all** | 3 | 1 | 0 | 0 | 0 |" in page
    assert page.endswith("100.00% | reached |")
    for worse in (INVALID, FAILED, REFUSED):
        assert "75.00% | **missed** |" in render(requests, [VALID, LENGTH, VALID, worse])


@pytest.mark.slow
@pytest.mark.usefixtures("compiled_kernels")
def test_a_quick_run(model_dir, monkeypatch) -> None:
    """The tiny model's answers are noise within the schema: most are cut, none may break it."""
    short = [one for one in schema_requests(32, 8) if len(one.prompt) < 200][:16]  # the tiny model reads 512 tokens
    monkeypatch.setattr(schemas, "schema_requests", lambda _count, _kinds: short)
    section = schemas.run(rows=None, model_dir=model_dir, quick=True, progress=print)
    [line] = [line for line in section.splitlines() if line.startswith("| **all** |")]
    valid, length, *others = map(int, line.strip("| ").split(" | ")[1:])
    assert (valid + length, others) == (16, [0, 0, 0])

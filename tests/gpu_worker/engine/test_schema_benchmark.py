"""The check of answers against schemas: it holds the engine to them, and would notice one that breaks out."""

import json

import jsonschema
import pytest

from gpu_worker.benchmarks import schemas
from gpu_worker.benchmarks.schema_requests import schema_requests
from gpu_worker.benchmarks.schemas import FAILED, INVALID, LENGTH, REFUSED, VALID, Answer, judge
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
    requests = schema_requests(1000, 100)
    assert len({one.prompt for one in requests}) == 1000
    kinds = {json.dumps(one.schema) for one in requests}
    assert len(kinds) == 100
    for kind in kinds:
        jsonschema.Draft202012Validator.check_schema(json.loads(kind))
    for word in ("enum", "pattern", "format", "maxItems", "$ref", "minimum", "null"):
        assert any(f'"{word}"' in kind for kind in kinds)


@pytest.mark.slow
@pytest.mark.usefixtures("compiled_kernels")
def test_a_quick_run(model_dir, monkeypatch) -> None:
    """The tiny model's answers are noise within the schema: most are cut, none may break it."""
    monkeypatch.setattr(schemas, "schema_requests", lambda _count, _kinds: schema_requests(8, 8))
    section = schemas.run(rows=None, model_dir=model_dir, quick=True, progress=print)
    valid, length, invalid, failed, refused = map(int, section.splitlines()[-1].strip("| ").split(" | "))
    assert valid + length == 8
    assert (invalid, failed, refused) == (0, 0, 0)

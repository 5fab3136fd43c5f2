"""The comparison with transformers: equal answers count as such, and it would notice others."""

from dataclasses import replace

import pytest

from gpu_worker.benchmarks import agreement_judge
from gpu_worker.benchmarks.agreement import (
    HELD_PROPOSING,
    HELD_WAYS,
    PROPOSING,
    WAYS,
    Ground,
    answers_of,
    compare,
    render,
    require_different,
)
from gpu_worker.benchmarks.agreement_judge import Agreement, Question, agreement, judged
from gpu_worker.engine.self_check import ReferenceAnswer

TEXTS = ("short", "The printer does not print. " * 3, "Не могу войти")
SCHEMA = {
    "type": "object",
    "properties": {"queue": {"type": "string", "enum": ["Network", "Access"]}, "urgent": {"type": "boolean"}},
    "required": ["queue", "urgent"],
    "additionalProperties": False,
}


@pytest.fixture
def ground(model_dir, renderer, adapter_dirs) -> Ground:
    return Ground(model_dir, adapter_dirs, SCHEMA, renderer)


@pytest.fixture
def questions(adapter_dirs, prompt_ids, monkeypatch) -> list[Question]:
    monkeypatch.setattr(agreement_judge, "GENERATED", 1)
    return [Question(adapter, prompt_ids(text)) for adapter in adapter_dirs for text in TEXTS]


@pytest.mark.slow
def test_every_way_agrees_and_a_wrong_answer_is_noticed(ground, questions) -> None:
    proposed = answers_of(PROPOSING, questions, [8] * 9, ground)
    # one that transformers would not have chosen: it says itself what is right
    shown = [*proposed[:-1], [proposed[-1][0] ^ 1, *proposed[-1][1:]]]
    asked = judged(ground.model_dir, ground.adapters, questions, shown, limit=8, eos_ids=ground.renderer.eos_ids)
    assert agreement(asked, proposed) == Agreement(9, 0, 0)
    assert agreement(asked, shown) == Agreement(8, 0, 1)
    assert [len(one.right.margins) == len(one.right.token_ids) for one in asked] == [True] * 9
    for way in (WAYS[3], WAYS[-1]):
        assert compare(way, asked, ground) == Agreement(9, 0, 0)
    assert compare(WAYS[1], asked, ground) == Agreement(3, 0, 0)
    first = asked[0].right
    for margin, found in ((1.0, Agreement(8, 0, 1)), (0.0, Agreement(8, 1, 0))):
        other = ReferenceAnswer((first.token_ids[0] ^ 1, *first.token_ids[1:]), (margin,) * len(first.margins))
        changed = [replace(asked[0], right=other), *asked[1:]]
        assert compare(WAYS[0], changed, ground) == found


@pytest.mark.slow
def test_within_a_schema_transformers_chooses_among_the_same_tokens(ground, questions) -> None:
    eos_ids, grammar = ground.renderer.eos_ids, ground.grammar(HELD_PROPOSING)
    proposed = answers_of(HELD_PROPOSING, questions, [48] * 9, ground)
    assert all(grammar.is_complete(answer) for answer in proposed)
    # a schema's answer that is possible but was not the best: transformers finds the best by itself
    shown = [*proposed[:-1], [*proposed[-1][:-1]]]
    asked = judged(ground.model_dir, ground.adapters, questions, shown, limit=48, eos_ids=eos_ids, grammar=grammar)
    assert agreement(asked, proposed) == Agreement(9, 0, 0)
    assert agreement(asked, shown) == Agreement(8, 0, 1)
    assert [compare(way, asked, ground) for way in HELD_WAYS] == [Agreement(3, 0, 0), Agreement(9, 0, 0)]
    free = judged(ground.model_dir, ground.adapters, questions, proposed, limit=48, eos_ids=eos_ids)
    assert agreement(free, proposed).equal == 0


def test_adapters_that_answer_alike_are_not_compared() -> None:
    assert require_different([[1], [2], [1], [3]], adapters=2) == 0.5
    with pytest.raises(RuntimeError, match="answer 67% of the prompts alike"):
        require_different([[7], [8], [9], [1], [2], [3], [1], [2], [4]], adapters=3)


def test_the_table_says_what_was_compared() -> None:
    found = {"alone": Agreement(598, 2, 0), "mixed": Agreement(600, 0, 0)}
    page = render(found, prompts=200, adapters=3, alike={"free": 0.1})
    assert "| alone | 598 | 2 | 0 |" in page
    assert "200 prompts under each of 3" in page
    assert "at most 10% free is the same" in page
    assert page.splitlines()[-1].endswith("| at most 0 | 0 | reached |")
    missed = render(found | {"other": Agreement(0, 0, 1)}, prompts=200, adapters=3, alike={})
    assert missed.splitlines()[-1].endswith("| at most 0 | 1 | **missed** |")

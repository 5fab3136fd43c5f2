"""The comparison with transformers: equal answers count as such, and it would notice others."""

from dataclasses import replace

import pytest

from gpu_worker.benchmarks import agreement as agreement_benchmark
from gpu_worker.benchmarks.agreement import (
    PROPOSING,
    WAYS,
    Agreement,
    Question,
    agreement,
    answers_of,
    compare,
    judged,
    render,
)
from gpu_worker.engine.self_check import ReferenceAnswer


@pytest.mark.slow
def test_every_way_agrees_and_a_wrong_answer_is_noticed(
    model_dir, renderer, adapter_dirs, prompt_ids, monkeypatch
) -> None:
    monkeypatch.setattr(agreement_benchmark, "GENERATED", 1)
    prompts = [prompt_ids(text) for text in ("short", "The printer does not print. " * 3, "Не могу войти")]
    questions = [Question(adapter, prompt) for adapter in adapter_dirs for prompt in prompts]
    proposed = answers_of(PROPOSING, questions, [8] * 9, model_dir, renderer, adapter_dirs)
    # one that transformers would not have chosen: it says itself what is right
    shown = [*proposed[:-1], [proposed[-1][0] ^ 1, *proposed[-1][1:]]]
    asked = judged(model_dir, adapter_dirs, questions, shown, limit=8, eos_ids=renderer.eos_ids)
    assert agreement(asked, proposed) == Agreement(9, 0, 0)
    assert agreement(asked, shown) == Agreement(8, 0, 1)
    assert [len(one.right.margins) == len(one.right.token_ids) for one in asked] == [True] * 9
    for way in (WAYS[3], WAYS[-1]):
        assert compare(way, asked, model_dir, renderer, adapter_dirs) == Agreement(9, 0, 0)
    assert compare(WAYS[1], asked, model_dir, renderer, adapter_dirs) == Agreement(3, 0, 0)
    first = asked[0].right
    for margin, found in ((1.0, Agreement(8, 0, 1)), (0.0, Agreement(8, 1, 0))):
        other = ReferenceAnswer((first.token_ids[0] ^ 1, *first.token_ids[1:]), (margin,) * len(first.margins))
        changed = [replace(asked[0], right=other), *asked[1:]]
        assert compare(WAYS[0], changed, model_dir, renderer, adapter_dirs) == found


def test_the_table_says_what_was_compared() -> None:
    lines = render({"alone": Agreement(598, 2, 0)}, prompts=200, adapters=3).splitlines()
    assert lines[-1] == "| alone | 598 | 2 | 0 |"
    assert "200 prompts under each of 3" in lines[2]

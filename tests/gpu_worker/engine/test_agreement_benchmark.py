"""The comparison with transformers: equal answers count as such, and it would notice others."""

from dataclasses import replace

import pytest

from gpu_worker.benchmarks.agreement import WAYS, Agreement, compare, reference_answers, render
from gpu_worker.engine.self_check import ReferenceAnswer


@pytest.mark.slow
def test_every_way_agrees_and_a_wrong_answer_is_noticed(model_dir, renderer, adapter_dirs, prompt_ids) -> None:
    prompts = [prompt_ids(text) for text in ("short", "The printer does not print. " * 3, "Не могу войти")]
    asked = reference_answers(model_dir, adapter_dirs, prompts, limit=8)
    assert len(asked) == 9
    for way in (WAYS[1], WAYS[3], WAYS[-1]):
        assert compare(way, asked, model_dir, renderer, adapter_dirs) == Agreement(9, 0, 0)
    first = asked[0].right
    for margin, found in ((1.0, Agreement(8, 0, 1)), (0.0, Agreement(8, 1, 0))):
        other = ReferenceAnswer((first.token_ids[0] ^ 1, *first.token_ids[1:]), (margin,) * len(first.margins))
        changed = [replace(asked[0], right=other), *asked[1:]]
        assert compare(WAYS[0], changed, model_dir, renderer, adapter_dirs) == found


def test_the_table_says_what_was_compared() -> None:
    lines = render({"alone": Agreement(598, 2, 0)}, prompts=200, adapters=3).splitlines()
    assert lines[-1] == "| alone | 598 | 2 | 0 |"
    assert "200 prompts under each of 3" in lines[2]

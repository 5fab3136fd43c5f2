"""Drafts from earlier answers: proposed only where there is a habit, and never a change of an answer."""

from collections.abc import Callable
from pathlib import Path

import pytest

from datasets_app.rendering import ChatRenderer
from gpu_worker.engine.answer_memory import MAX_CONTEXTS, AnswerMemory, least_likely
from tests.gpu_worker.engine.driver import make_driver
from tests.gpu_worker.engine.reference import Reference

pytestmark = pytest.mark.slow


def teach(memory: AnswerMemory, tokens: list[int]) -> None:
    for end in range(4, len(tokens) + 1):
        memory.learn(tokens[:end])


def test_a_habit_is_proposed_and_a_choice_is_not() -> None:
    memory = AnswerMemory()
    for choice in (70, 71, 72, 70, 73):
        teach(memory, [1, 2, 3, 4, 5, 6, choice, 8, 9])
    assert memory.expect([1, 2, 3], 10, 0.5) == (4, 5, 6)
    assert memory.expect([1, 2, 3], 2, 0.5) == (4, 5)
    assert memory.expect([9, 9, 9], 5, 0.0) == ()


def test_what_was_seen_once_is_guessed_where_guessing_is_cheap() -> None:
    memory = AnswerMemory()
    teach(memory, [1, 2, 3, 4, 5, 6, 7])
    assert memory.expect([1, 2, 3], 10, least_likely(1)) == (4, 5, 6, 7)
    assert memory.expect([1, 2, 3], 10, least_likely(32)) == (4,)
    for _ in range(4):
        teach(memory, [1, 2, 3, 4, 5, 6, 7])
    assert memory.expect([1, 2, 3], 10, least_likely(32)) == (4, 5, 6, 7)


def test_a_doubtful_token_is_proposed_to_one_sequence_and_not_to_a_crowd() -> None:
    memory = AnswerMemory()
    for choice in (70, 70, 70, 71):
        teach(memory, [1, 2, 3, choice])
    assert memory.expect([1, 2, 3], 1, least_likely(1)) == (70,)
    assert memory.expect([1, 2, 3], 1, least_likely(32)) == ()
    assert [least_likely(running) for running in range(33)] == sorted(least_likely(running) for running in range(33))


def test_a_habit_that_changes_is_given_up() -> None:
    memory = AnswerMemory()
    for _ in range(20):
        teach(memory, [1, 2, 3, 4])
    for _ in range(2):
        teach(memory, [1, 2, 3, 5])
    assert memory.expect([1, 2, 3], 1, 0.6) == ()
    for _ in range(2):
        teach(memory, [1, 2, 3, 5])
    assert memory.expect([1, 2, 3], 1, 0.3) == (5,)
    for _ in range(12):
        teach(memory, [1, 2, 3, 5])
    assert memory.expect([1, 2, 3], 1, 0.8) == (5,)


def test_the_memory_is_bounded() -> None:
    memory = AnswerMemory()
    for token in range(MAX_CONTEXTS + 100):
        memory.learn([token, token, token, 1])
    assert len(memory._follows) == MAX_CONTEXTS


@pytest.mark.parametrize("params", [{}, {"temperature": 0.8, "seed": 11}], ids=["greedy", "sampled"])
def test_answers_are_the_same_with_fewer_steps(
    model_dir: Path,
    renderer: ChatRenderer,
    adapter_dirs: dict[str, Path],
    reference: Reference,
    prompt_ids: Callable[[str], list[int]],
    params: dict[str, float],
) -> None:
    drafting = make_driver(model_dir, renderer, adapter_dirs)
    plain = make_driver(model_dir, renderer, adapter_dirs, draft_tokens=0)
    texts = ["Hello", "Hello", "Hello there", "Hello", "Hello", "The printer"]
    for number, text in enumerate(texts * 2):
        for driver in (drafting, plain):
            for adapter in ("north", "south"):
                driver.submit(f"{adapter} {number}", prompt_ids(text), adapter, max_tokens=24, **params)
            driver.run()
    assert drafting.answers == plain.answers
    assert drafting.core.stats().steps < plain.core.stats().steps
    if not params:
        for number, text in enumerate(texts):
            expected = reference.generate(prompt_ids(text), "north", 24)
            assert drafting.answers[f"north {number}"].token_ids == expected


def test_the_bare_base_model_belongs_to_no_team_and_remembers_nothing(
    model_dir: Path, renderer: ChatRenderer, prompt_ids: Callable[[str], list[int]]
) -> None:
    driver = make_driver(model_dir, renderer, {})
    before = driver.core.stats().steps
    for _ in range(4):
        driver.answer(prompt_ids("Hello"), max_tokens=10, ignore_eos=True)
    assert driver.core.stats().steps - before == 40

"""The first promise: greedy answers equal transformers' generate token for token, however requests are batched."""

from collections.abc import Callable
from pathlib import Path

import pytest

from datasets_app.rendering import ChatRenderer
from tests.gpu_worker.engine.driver import Driver, make_driver
from tests.gpu_worker.engine.reference import Reference

pytestmark = pytest.mark.slow

PromptIds = Callable[[str], list[int]]

TEXTS = ("short", "The printer does not print. " * 4, "Не могу войти в личный кабинет", "x" * 90)
WHO = (None, "north", "south", "west")


@pytest.mark.parametrize("adapter", WHO)
def test_alone(driver: Driver, reference: Reference, prompt_ids: PromptIds, adapter: str | None) -> None:
    for text in TEXTS:
        ids = prompt_ids(text)
        assert driver.answer(ids, adapter).token_ids == reference.generate(ids, adapter, 12)


def test_adapters_differ_from_the_base(reference: Reference, prompt_ids: PromptIds) -> None:
    """Guards the other tests: were the adapters without effect, equality would prove nothing."""
    ids = prompt_ids(TEXTS[0])
    answers = {tuple(reference.generate(ids, adapter, 12)) for adapter in WHO}
    assert len(answers) == len(WHO)


@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"prefix_cache": False},
        {"prefill_tokens": 7},
        {"prefill_tokens": 24, "max_running": 3},
        {"prefill_tokens": 1000},
    ],
    ids=["default", "no-prefix-cache", "tiny-chunks", "few-places", "whole-prompts"],
)
def test_base_and_three_adapters_in_one_batch(
    model_dir: Path,
    renderer: ChatRenderer,
    adapter_dirs: dict[str, Path],
    reference: Reference,
    prompt_ids: PromptIds,
    limits: dict[str, object],
) -> None:
    driver = make_driver(model_dir, renderer, adapter_dirs, **limits)
    expected = {}
    for text in TEXTS:
        for adapter in WHO:
            name = f"{adapter} {text}"
            expected[name] = reference.generate(prompt_ids(text), adapter, 12)
            driver.submit(name, prompt_ids(text), adapter)
    answers = driver.run()
    assert {name: answer.token_ids for name, answer in answers.items()} == expected


def test_requests_join_and_leave_at_every_step(driver: Driver, reference: Reference, prompt_ids: PromptIds) -> None:
    expected = {}
    for number in range(12):
        adapter, text = WHO[number % 4], TEXTS[number % 3]
        name, length = f"{number}", 3 + number % 5
        expected[name] = reference.generate(prompt_ids(text), adapter, length)
        driver.submit(name, prompt_ids(text), adapter, max_tokens=length)
        driver.step()
    answers = driver.run()
    assert {name: answer.token_ids for name, answer in answers.items()} == expected


def test_the_prefix_cache_changes_nothing_but_the_work(
    driver: Driver, reference: Reference, prompt_ids: PromptIds
) -> None:
    ids = prompt_ids(TEXTS[1])
    first = driver.answer(ids, "north")
    again = driver.answer(ids, "north")
    assert first.cached_tokens == 0
    assert again.cached_tokens == (len(ids) - 1) // 16 * 16
    assert again.token_ids == first.token_ids == reference.generate(ids, "north", 12)


def test_the_prefix_cache_is_never_shared_between_adapters(
    driver: Driver, reference: Reference, prompt_ids: PromptIds
) -> None:
    ids = prompt_ids(TEXTS[1])
    for adapter in ("north", "south", None, "north"):
        assert driver.answer(ids, adapter).token_ids == reference.generate(ids, adapter, 12)
    fresh = driver.answer(ids, "west")
    assert fresh.cached_tokens == 0


def test_the_bare_base_model_shares_prefixes_only_within_a_salt(
    driver: Driver, reference: Reference, prompt_ids: PromptIds
) -> None:
    """Every team may call it: what one has asked must not be told to another by cached tokens or by speed."""
    ids = prompt_ids(TEXTS[1])
    expected = reference.generate(ids, None, 12)
    seen = []
    for salt in (None, None, "alice", "bob", "alice"):
        answer = driver.answer(ids, cache_salt=salt)
        assert answer.token_ids == expected
        seen.append(answer.cached_tokens > 0)
    assert seen == [False, False, False, False, True]
    seen = [driver.answer(ids, "north", cache_salt=salt).cached_tokens > 0 for salt in ("x", "y", None, "x")]
    assert seen == [False, False, False, True]


def test_a_conversation_reuses_its_earlier_turns(driver: Driver, reference: Reference, prompt_ids: PromptIds) -> None:
    ids = prompt_ids(TEXTS[1])
    answer = driver.answer(ids, "north", max_tokens=20)
    longer = ids + answer.token_ids + prompt_ids("and now?")
    second = driver.answer(longer, "north")
    assert second.cached_tokens >= len(ids) // 16 * 16
    assert second.token_ids == reference.generate(longer, "north", 12)

"""Sampling: repeatable by seed, alone or in company, and true to its parameters."""

from collections import Counter

import pytest
import torch

from gpu_worker.engine.sampling import SamplingParams, penalised, sample_token, seeded_generator, token_logprob
from tests.gpu_worker.engine.driver import Driver

pytestmark = pytest.mark.slow

PROMPT = [3, 40, 41, 42, 43]


def test_a_seed_repeats_alone_and_in_a_batch(driver: Driver) -> None:
    alone = driver.answer(PROMPT, "north", temperature=0.9, seed=7, max_tokens=20)
    for number in range(5):
        driver.submit(f"other-{number}", [*PROMPT, 50 + number], "south", temperature=1.2, seed=number)
    driver.submit("again", PROMPT, "north", temperature=0.9, seed=7, max_tokens=20)
    driver.submit("changed", PROMPT, "north", temperature=0.9, seed=8, max_tokens=20)
    answers = driver.run()
    assert answers["again"].token_ids == alone.token_ids
    assert answers["changed"].token_ids != alone.token_ids


def test_without_a_seed_answers_differ(driver: Driver) -> None:
    answers = {tuple(driver.answer(PROMPT, temperature=1.5, max_tokens=12).token_ids) for _ in range(3)}
    assert len(answers) > 1


def test_top_p_keeps_only_the_nucleus() -> None:
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    params = SamplingParams(max_tokens=1, temperature=1.0, top_p=0.7, seed=1)
    generator = seeded_generator(params)
    drawn = Counter(sample_token(logits, params, generator) for _ in range(2000))
    assert set(drawn) == {0, 1}
    assert abs(drawn[0] / 2000 - 0.5 / 0.8) < 0.05


def test_top_p_looks_beyond_the_first_candidates() -> None:
    """A flat distribution over more tokens than are looked at first."""
    params = SamplingParams(max_tokens=1, temperature=1.0, top_p=0.99, seed=1)
    generator = seeded_generator(params)
    drawn = {sample_token(torch.zeros(5000), params, generator) for _ in range(3000)}
    assert len(drawn) > 1500


def test_a_tiny_top_p_is_greedy() -> None:
    logits = torch.randn(100)
    params = SamplingParams(max_tokens=1, temperature=1.0, top_p=1e-6, seed=3)
    generator = seeded_generator(params)
    assert {sample_token(logits, params, generator) for _ in range(20)} == {int(logits.argmax())}


def test_logprobs_are_the_models_own() -> None:
    logits = torch.tensor([1.0, 2.0, 3.0])
    found = token_logprob(logits, 1, 2)
    expected = torch.log_softmax(logits, -1)
    assert abs(found.logprob - float(expected[1])) < 1e-6
    assert [token for token, _ in found.top] == [2, 1]


@pytest.mark.parametrize(
    ("options", "kept"),
    [({"top_k": 2}, {0, 1}), ({"top_k": 9}, {0, 1, 2, 3}), ({"min_p": 0.25}, {0, 1, 2}), ({"min_p": 1.0}, {0})],
)
def test_top_k_and_min_p_keep_the_likeliest(options: dict[str, float], kept: set[int]) -> None:
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    params = SamplingParams(max_tokens=1, temperature=1.0, seed=1, **options)  # type: ignore[arg-type]
    generator = seeded_generator(params)
    assert {sample_token(logits, params, generator) for _ in range(1000)} == kept


def test_top_p_counts_what_min_p_left() -> None:
    logits = torch.log(torch.tensor([0.4, 0.3, 0.2, 0.1]))
    params = SamplingParams(max_tokens=1, temperature=1.0, min_p=0.6, top_p=0.6, seed=1)
    generator = seeded_generator(params)  # 0.4 and 0.3 are left, 57 and 43 of 100: both are needed for 60
    assert {sample_token(logits, params, generator) for _ in range(500)} == {0, 1}


def test_penalties_count_what_the_answer_holds() -> None:
    logits = torch.tensor([1.0, 2.0, 3.0])
    params = SamplingParams(max_tokens=1, frequency_penalty=0.5, presence_penalty=0.25)
    assert penalised(logits, [2, 2, 0], params).tolist() == [0.25, 2.0, 1.75]
    assert penalised(logits, [], params) is logits
    assert logits.tolist() == [1.0, 2.0, 3.0]


def test_a_penalty_ends_repetition_also_with_drafts(driver: Driver) -> None:
    free = driver.answer(PROMPT, "north", max_tokens=40, ignore_eos=True).token_ids
    once = driver.answer(PROMPT, "north", max_tokens=40, ignore_eos=True, presence_penalty=2.0, frequency_penalty=2.0)
    assert len(set(once.token_ids)) > len(set(free))

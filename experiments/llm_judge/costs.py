"""What asking a judge costs: told before it is asked, counted while it is, and kept below the team's limit. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from experiments.llm_judge.rubric import MOST_CHARACTERS, messages_for

MILLION: Final = 1_000_000
MOST_PRICE: Final = 1_000_000.0
MOST_ANSWER_TOKENS: Final = 400  # of a reply; the endpoint is told
USUAL_ANSWER_TOKENS: Final = 60
# Characters of usual text that make a token.
USUAL_CHARACTERS: Final = 4


def cost_of(prompt_tokens: float, answer_tokens: float, prompt_price: float, answer_price: float) -> float:
    """Return what tokens cost at prices for a million each."""
    return (prompt_tokens * prompt_price + answer_tokens * answer_price) / MILLION


def most_cost_of(messages: Sequence[dict[str, str]], prompt_price: float, answer_price: float) -> float:
    """Return what one question may cost at most, by its length and the longest reply.

    Hardly any text has more tokens than half its characters, or a third of its bytes where writings take more of them.
    """
    text = "".join(message["content"] for message in messages)
    tokens = max(len(text) / 2, len(text.encode("utf-8", "replace")) / 3)
    return cost_of(tokens, MOST_ANSWER_TOKENS, prompt_price, answer_price)


def estimated_tokens(rubric: str, lengths: Sequence[int]) -> tuple[int, int]:
    """Return about how many tokens questions and replies will have.

    `lengths`: of each question, the characters of what is shown of a row.
    """
    around = sum(len(message["content"]) for message in messages_for(rubric, prompt="", expected="", answer=""))
    characters = sum(around + min(length, 3 * MOST_CHARACTERS) for length in lengths)
    return characters // USUAL_CHARACTERS, len(lengths) * USUAL_ANSWER_TOKENS


def told_or_guessed(told: tuple[int, int], messages: Sequence[dict[str, str]], reply: str) -> tuple[int, int]:
    """Return the tokens that an endpoint has counted; where it does not count, a guess by the characters."""
    if any(told):
        return told
    characters = sum(len(message["content"]) for message in messages)
    return characters // USUAL_CHARACTERS, len(reply) // USUAL_CHARACTERS

"""What an answer to a validation row is while training goes on, and what can write some."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # whoever samples nothing does without the engine
    from gpu_worker.engine.grammar import Grammar


@dataclass(frozen=True)
class Answer:
    """One answer that has ended. `is_whole`: it ended by itself, not at the limit."""

    text: str
    token_ids: tuple[int, ...]
    is_whole: bool


@dataclass(frozen=True)
class Terms:
    """On which terms rows are answered: at most `limit` tokens each, before the first of `stops`, until `is_over`."""

    limit: int
    stops: tuple[str, ...]
    is_over: Callable[[], bool]


class Answering(Protocol):
    """The model as it has learned so far, ready to answer greedily."""

    vocabulary: int

    def ask(self, prompts: Mapping[int, Sequence[int]], terms: Terms, grammar: Grammar | None) -> dict[int, Answer]:
        """Return the answers to prompts of token ids that ended in time, by the prompts' names, in their order."""
        ...

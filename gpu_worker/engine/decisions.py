"""Which of a few allowed values follows a prompt: a probability for each of them, that is how sure the model is.

All values behind one prompt are scored together; the prompt, and what values have in common, is computed once. Values
that the model's next token rules out are not spelled out: their bound is taken instead, far below anything that would
show in a probability.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from gpu_worker.engine.likelihood import Place
from gpu_worker.engine.sequence import AdapterRef
from gpu_worker.engine.token_tree import TokenIds

RULED_OUT_NATS = 10.0
"""A value this much less likely than the best one has a probability below 0.00005."""


class Scorer(Protocol):
    """Says how likely tokens are; `Likelihoods` does at once, others behind a running engine."""

    def behind(
        self, prompt: TokenIds, adapter: AdapterRef | None, *, cache_salt: str | None = None
    ) -> AbstractContextManager[Place]:
        """Lend the place behind a prompt, computed once for all that is asked there."""
        ...


@dataclass(frozen=True)
class Decision:
    """Natural log probabilities of the allowed values, in their order; the probabilities sum to 1."""

    logprobs: tuple[float, ...]

    @property
    def best(self) -> int:
        """Return which value is the likeliest; of equals the first."""
        return max(range(len(self.logprobs)), key=self.logprobs.__getitem__)


def decide(
    scorer: Scorer,
    prompt: TokenIds,
    values: Sequence[TokenIds],
    adapter: AdapterRef | None,
    *,
    cache_salt: str | None = None,
    ruled_out: float = RULED_OUT_NATS,
) -> Decision:
    """Return how likely each value is behind the prompt, given that it is one of them.

    `values` are token ids up to and with what ends a value, so that none is the beginning of another one.
    Raises: ValueError without values, for an empty one, or if prompt and value are too long.
    """
    if not values or not all(values):
        raise ValueError("nothing to decide")
    if len(values) == 1:
        return Decision((0.0,))
    common = _common(values)
    prompt, rests = [*prompt, *values[0][:common]], [tuple(value[common:]) for value in values]
    with scorer.behind(prompt, adapter, cache_salt=cache_salt) as behind:
        first = behind.next_token
        totals = [float(first[rest[0]]) for rest in rests]
        exact: set[int] = {place for place, rest in enumerate(rests) if len(rest) == 1}
        while open_places := _possible(totals, exact, ruled_out):
            found = behind.of([rests[place] for place in open_places])
            for place, logprobs in zip(open_places, found, strict=True):
                totals[place] = sum(logprobs)
            exact.update(open_places)
    whole = _log_sum(totals)
    return Decision(tuple(total - whole for total in totals))


def _possible(totals: Sequence[float], exact: set[int], ruled_out: float) -> list[int]:
    """Return the values whose bound is too high to leave it at that.

    A spelled-out value can turn out less likely than its first token promised; then others come back into reach.
    """
    reach = max((totals[place] for place in exact), default=-math.inf)
    reach = max(totals) if reach == -math.inf else reach
    return [place for place, total in enumerate(totals) if place not in exact and total >= reach - ruled_out]


def _common(values: Sequence[TokenIds]) -> int:
    """Return how many tokens all values begin with, leaving at least one of each."""
    first, last = min(values, key=tuple), max(values, key=tuple)
    longest = min(map(len, values)) - 1
    return next((place for place in range(longest) if first[place] != last[place]), longest)


def _log_sum(logprobs: Sequence[float]) -> float:
    most = max(logprobs)
    return most + math.log(sum(math.exp(one - most) for one in logprobs))

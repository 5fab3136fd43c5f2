"""Which of a few allowed values follows a prompt: a probability for each of them, that is how sure the model is.

The values are a tree of tokens, and the prompt is computed once. A beginning is never less likely than what it can
become, so the search goes down the likeliest beginnings first and ends when all others together cannot change a
probability by more than `MOST_UNSEEN`. Of 77 labels a model that has learned them needs a handful.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import accumulate, groupby
from typing import Protocol

from torch import Tensor

from datasets_app.rendering import ChatRenderer
from gpu_worker.engine.likelihood import Place
from gpu_worker.engine.sequence import AdapterRef
from gpu_worker.engine.token_tree import TokenIds

MOST_UNSEEN = 2e-3
"""No probability is off by more than this. Values that were not spelled out share what is left between them."""

_PROBE = "answer"

# So few values are spelled out at once: a round costs as much as a dozen tokens, because it reads all weights.
_FEW = 4


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


def value_ids(
    renderer: ChatRenderer, values: Sequence[str], *, beginning: str = "", ending: str = ""
) -> list[list[int]]:
    """Return each value from the beginning of the answer to what ends it: the text behind it, or the turn's end.

    What the chat template writes around an answer, which the model has learned too, belongs to it.
    """
    _prompt, answer = renderer.row_texts([{"role": "user", "content": "?"}, {"role": "assistant", "content": _PROBE}])
    before, _probe, behind = answer.partition(_PROBE)
    return [renderer.encode(before + beginning + value + (ending or behind)) for value in values]


def decide(
    scorer: Scorer,
    prompt: TokenIds,
    values: Sequence[TokenIds],
    adapter: AdapterRef | None,
    *,
    cache_salt: str | None = None,
    most_unseen: float = MOST_UNSEEN,
) -> Decision:
    """Return how likely each value is behind the prompt, given that it is one of them.

    `values` are token ids up to and with what ends a value, so that none is the beginning of another one. The best
    value is the exact one; probabilities are off by `most_unseen` at most.
    Raises: ValueError without values, for an empty one, or if prompt and value are too long.
    """
    if not values or not all(values):
        raise ValueError("nothing to decide")
    if len(values) == 1:
        return Decision((0.0,))
    common = _common(values)
    prompt, rests = [*prompt, *values[0][:common]], [tuple(value[common:]) for value in values]
    with scorer.behind(prompt, adapter, cache_salt=cache_salt) as behind:
        search = _Search(rests, behind.next_token)
        # below 1 / values, so that what is left cannot hide the best value
        while branches := search.next_branches(min(most_unseen, 0.5 / len(values))):
            ways = [way for branch in branches for way in search.ways(branch)]
            search.follow(branches, ways, behind.of([way.read for way in ways]))
    return Decision(search.logprobs())


@dataclass(frozen=True)
class _Branch:
    """The sorted values [first, end), which begin alike, and how likely what has been read of them is."""

    first: int
    end: int
    logprob: float = 0.0

    @property
    def each(self) -> float:
        """Return the log probability of each value if all were equally likely, an upper bound of their mean."""
        return self.logprob - math.log(self.end - self.first)


@dataclass(frozen=True)
class _Way:
    """A way on from a branch: what has to be read for it, and where it leads; its log probability is not known yet."""

    read: TokenIds
    to: _Branch
    is_value: bool


class _Search:
    """Values as a tree of tokens, of which the likely part is looked at. Branches are open until they are followed."""

    def __init__(self, values: Sequence[TokenIds], first: Tensor) -> None:
        """`first`: log probability of every token as a value's first one. Shapes: (vocabulary,)."""
        self._places = sorted(range(len(values)), key=lambda place: tuple(values[place]))
        self._values = [values[place] for place in self._places]
        self._open: list[_Branch] = []
        self._known: list[_Branch] = []
        ways = self._parted(_Branch(0, len(values)), 0)
        self._sort(ways, [float(first[way.read[0]]) for way in ways])

    def ways(self, branch: _Branch) -> list[_Way]:
        """Return the ways on from where the values of a branch part; few values are spelled out at once."""
        values = self._values[branch.first : branch.end]
        parting = max(map(len, values)) if len(values) <= _FEW else _alike(values[0], values[-1])
        return self._parted(branch, parting)

    def _parted(self, branch: _Branch, alike: int) -> list[_Way]:
        """Return the ways that differ in the first `alike` tokens and one more."""
        found, start = [], branch.first
        for read, group in groupby(self._values[branch.first : branch.end], key=lambda ids: tuple(ids[: alike + 1])):
            stop = start + sum(1 for _ids in group)
            # sorted: if the longest of a group is no longer than what is read, all of them are that one value
            is_value = max(map(len, self._values[start:stop])) <= len(read)
            found.append(_Way(read, _Branch(start, stop), is_value))
            start = stop
        return found

    def follow(self, branches: Sequence[_Branch], ways: Sequence[_Way], logprobs: Sequence[Sequence[float]]) -> None:
        """Replace branches by where they lead, given the log probabilities of what had to be read."""
        self._open = [branch for branch in self._open if branch not in branches]
        self._sort(ways, [math.fsum(tokens) for tokens in logprobs])

    def next_branches(self, most_unseen: float) -> list[_Branch]:
        """Return the branches to follow next, none if the rest cannot change a probability by more than this."""
        if not self._open:
            return []
        known = [branch.logprob + math.log(branch.end - branch.first) for branch in self._known]
        ordered = sorted(self._open, key=lambda branch: branch.logprob)
        # an open branch may turn out a dead end, so once something is known only that counts
        enough = _log_sum([*known, ordered[-1].logprob])
        sure = _log_sum(known) if known else -math.inf
        share = math.log(most_unseen) if most_unseen else -math.inf
        unseen = list(accumulate(ordered, lambda sum_, branch: _log_sum([sum_, branch.logprob]), initial=-math.inf))
        if unseen[-1] <= sure + share:
            return []
        return [branch for branch, mass in zip(ordered, unseen[1:], strict=True) if mass > enough + share]

    def logprobs(self) -> tuple[float, ...]:
        """Return the normalised log probabilities of the values, in the order in which they were given."""
        found = [0.0] * len(self._values)
        for branch in self._open:
            for place in self._places[branch.first : branch.end]:
                found[place] = branch.each
        for branch in self._known:
            for place in self._places[branch.first : branch.end]:  # several only if a value was given twice
                found[place] = branch.logprob
        whole = _log_sum(found)
        return tuple(one - whole for one in found)

    def _sort(self, ways: Sequence[_Way], logprobs: Sequence[float]) -> None:
        for way, logprob in zip(ways, logprobs, strict=True):
            into = self._known if way.is_value else self._open
            into.append(replace(way.to, logprob=logprob))


def _alike(one: TokenIds, other: TokenIds) -> int:
    """Return how many tokens both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (left, right) in pairs if left != right), min(len(one), len(other)))


def _common(values: Sequence[TokenIds]) -> int:
    """Return how many tokens all values begin with, leaving at least one of each."""
    first, last = min(values, key=tuple), max(values, key=tuple)
    longest = min(map(len, values)) - 1
    return next((place for place in range(longest) if first[place] != last[place]), longest)


def _log_sum(logprobs: Sequence[float]) -> float:
    most = max(logprobs)
    if most == -math.inf:
        return most
    return most + math.log(sum(math.exp(one - most) for one in logprobs))

"""How likely given values are as the answer: asked of a running engine, in short turns between its steps."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from datasets_app.rendering import ChatRenderer
from gpu_worker.engine.config import EngineConfig
from gpu_worker.engine.core import EngineCore
from gpu_worker.engine.decisions import decide, value_ids
from gpu_worker.engine.errors import BadRequest, ContextTooLong
from gpu_worker.engine.likelihood import Place
from gpu_worker.engine.loop import EngineLoop
from gpu_worker.engine.sequence import AdapterRef
from gpu_worker.engine.server.generation import Generator
from gpu_worker.engine.server.turns import Turns
from gpu_worker.engine.token_tree import TokenIds, count_tokens

TURN_TOKENS = 128
"""Most value tokens computed in one go: what a score can delay the answers that run beside it."""
AT_ONCE = 2
MAX_WAITING = 64
TURN_LIMIT_S = 60.0


class Abandoned(Exception):
    """Nobody waits for this score any more."""


@dataclass(frozen=True)
class Scores:
    """Natural log probabilities of the values, given that the answer is one of them, and what there was to read.

    What values begin alike with counts once.
    """

    logprobs: tuple[float, ...]
    prompt_tokens: int
    cached_tokens: int


@dataclass(frozen=True)
class ValuesInText:
    """What is scored: the prompt, and the values with the text that stands before and behind them in the answer."""

    prompt: Sequence[int]
    beginning: str
    values: Sequence[str]
    ending: str

    def token_ids(self, renderer: ChatRenderer) -> list[list[int]]:
        """Return each value from the beginning of the answer to what ends it."""
        return value_ids(renderer, self.values, beginning=self.beginning, ending=self.ending)


class LoopScorer:
    """Likelihoods behind the engine's loop; what is asked takes one or more turns between two steps."""

    def __init__(self, loop: EngineLoop, gone: threading.Event) -> None:
        self._loop = loop
        self._gone = gone

    @contextmanager
    def behind(
        self, prompt: TokenIds, adapter: AdapterRef | None, *, cache_salt: str | None = None
    ) -> Iterator["LoopPlace"]:
        """Lend the place behind a prompt; its cache blocks and its adapter are held until the end.

        Raises: Overloaded, ModelNotFound, AdapterParked.
        """

        def enter(core: EngineCore) -> tuple[ExitStack, Place]:
            core.require_room(len(prompt))
            with ExitStack() as stack:
                stack.enter_context(core.holding(adapter))
                place = stack.enter_context(core.likelihoods().behind(prompt, adapter, cache_salt=cache_salt))
                return stack.pop_all(), place
            raise AssertionError("unreachable")

        stack, place = self._loop.call(enter).result(TURN_LIMIT_S)
        try:
            yield LoopPlace(self._loop, self._gone, place)
        finally:
            self._loop.call(lambda _core: stack.close()).result(TURN_LIMIT_S)


class LoopPlace:
    """A place behind a computed prompt; see `likelihood.Place`."""

    def __init__(self, loop: EngineLoop, gone: threading.Event, place: Place) -> None:
        self._loop = loop
        self._gone = gone
        self._place = place

    @property
    def next_token(self) -> Tensor:
        """Natural log probability of every token as the next one. Shapes: (vocabulary,)."""
        return self._loop.call(lambda _core: self._place.next_token).result(TURN_LIMIT_S)

    def of(self, continuations: Sequence[TokenIds]) -> list[list[float]]:
        """Return the log probability of every token of every continuation. Raises: Overloaded, Abandoned."""
        found: list[list[float]] = []
        for part in _turns(continuations):
            if self._gone.is_set():
                raise Abandoned
            found += self._loop.call(partial(self._turn, part)).result(TURN_LIMIT_S)
        return found

    def _turn(self, part: Sequence[TokenIds], core: EngineCore) -> list[list[float]]:
        core.require_room(sum(map(len, part)))
        return self._place.of(part)


def _turns(continuations: Sequence[TokenIds]) -> list[list[TokenIds]]:
    """Cut the continuations into parts of few tokens, in their order: those of one beginning stand side by side."""
    parts: list[list[TokenIds]] = [[]]
    for ids in continuations:
        if parts[-1] and sum(map(len, parts[-1])) + len(ids) > TURN_TOKENS:
            parts.append([])
        parts[-1].append(ids)
    return parts


class ValueScorer:
    """Scores values for requests, a few at a time and in a fair order."""

    def __init__(self, generator: Generator, loop: EngineLoop, renderer: ChatRenderer, config: EngineConfig) -> None:
        self._generator = generator
        self._loop = loop
        self._renderer = renderer
        self._turns = Turns(
            places=AT_ONCE, waiting=MAX_WAITING, share=config.max_waiting_share, wait_s=config.max_wait_s
        )

    async def score(self, asked: ValuesInText, adapter_name: str | None, *, cache_salt: str | None) -> Scores:
        """Return how likely the values are. Raises: ContextTooLong, BadRequest, ModelNotFound, Overloaded."""
        gone = threading.Event()
        try:
            async with self._turns.place(cache_salt or ""):
                return await self._generator.under(
                    adapter_name, lambda adapter: asyncio.to_thread(self._score, asked, adapter, cache_salt, gone)
                )
        finally:
            gone.set()

    def _score(
        self, asked: ValuesInText, adapter: AdapterRef | None, cache_salt: str | None, gone: threading.Event
    ) -> Scores:
        values = asked.token_ids(self._renderer)
        prompt = list(asked.prompt)
        longest = len(prompt) + max(map(len, values))
        limit = self._loop.call(lambda core: core.scorable_tokens).result(TURN_LIMIT_S)
        if longest > limit:
            message = f"This model scores texts of up to {limit} tokens, but messages and value have {longest}."
            raise ContextTooLong(message, param="messages")
        cached = self._loop.call(lambda core: core.known_tokens(prompt, adapter, cache_salt)).result(TURN_LIMIT_S)
        try:
            decision = decide(LoopScorer(self._loop, gone), prompt, values, adapter, cache_salt=cache_salt)
        except ValueError as error:
            raise BadRequest(f"The values cannot be scored: {error}.", param="values") from error
        return Scores(decision.logprobs, len(prompt) + count_tokens(values), cached)

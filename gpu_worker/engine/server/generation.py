"""From a parsed request to running sequences and back: the server's side of the engine loop."""

import asyncio
import contextlib
import itertools
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from datasets_app.rendering import ChatRenderer
from gpu_worker.engine.config import EngineConfig
from gpu_worker.engine.errors import AdapterParked, ContextTooLong, EngineError, GenerationFailed, Overloaded
from gpu_worker.engine.grammar import Grammar, GrammarCompiler
from gpu_worker.engine.loop import EngineLoop
from gpu_worker.engine.sequence import AdapterRef, SequenceOutput
from gpu_worker.engine.sequence import Sequence as EngineSequence
from gpu_worker.engine.server.requests import GenerationOrder

T = TypeVar("T")
ADAPTER_TRIES = 5


@dataclass(frozen=True)
class TokenUsage:
    """Token counts of one request. A prompt counts once, however many choices continue it."""

    prompt: int
    completion: int
    cached: int

    def to_dict(self) -> dict[str, object]:
        """Return OpenAI's usage object."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
            "completion_tokens_details": {"reasoning_tokens": 0},
        }


@dataclass(frozen=True)
class ChoiceOutput:
    """What one step added to one choice of an answer."""

    choice: int
    output: SequenceOutput


@dataclass
class Generation:
    """All sequences of one request while they run. Cancelled unless `outputs` was read to its end."""

    sequences: dict[str, int]
    """Sequence id -> index of its choice."""
    prompt_tokens: int
    queue: "asyncio.Queue[SequenceOutput]" = field(default_factory=asyncio.Queue)
    unfinished: set[str] = field(default_factory=set)
    completion_tokens: int = 0
    cached: dict[int, int] = field(default_factory=dict)
    """Choice -> prompt tokens that were not computed again; the first choice of each prompt counts."""
    choices_per_prompt: int = 1
    begun: float = field(default_factory=time.monotonic)
    first_output: float | None = None
    """When the first token arrived, on the monotonic clock."""

    async def outputs(self) -> AsyncIterator[ChoiceOutput]:
        """Yield what every step adds, until all choices have ended. Raises: GenerationFailed."""
        while self.unfinished:
            output = await self.queue.get()
            if output.error is not None:
                raise _failure(output.error, output.retry_after_s)
            self.first_output = self.first_output or time.monotonic()
            choice = self.sequences[output.sequence_id]
            self.completion_tokens += len(output.token_ids)
            self.cached[choice] = output.cached_tokens
            if output.finish_reason is not None:
                self.unfinished.discard(output.sequence_id)
            yield ChoiceOutput(choice, output)

    def usage(self) -> TokenUsage:
        """Return the counts so far."""
        cached = sum(count for choice, count in self.cached.items() if choice % self.choices_per_prompt == 0)
        return TokenUsage(self.prompt_tokens, self.completion_tokens, cached)


class Generator:
    """Starts and cancels generations on the engine loop."""

    def __init__(
        self,
        loop: EngineLoop,
        renderer: ChatRenderer,
        config: EngineConfig,
        grammars: GrammarCompiler,
        *,
        max_context: int,
    ) -> None:
        self._loop = loop
        self._grammars = grammars
        self._renderer = renderer
        self._default_max_tokens = config.default_max_tokens
        self._max_wait_s = config.max_wait_s
        self._max_context = max_context
        self._numbers = itertools.count()

    async def start(
        self, order: GenerationOrder, prompts: Sequence[Sequence[int]], adapter_name: str | None
    ) -> Generation:
        """Queue every choice of every prompt. Raises: BadRequest, ModelNotFound, ContextTooLong, Overloaded."""
        return await self.under(adapter_name, lambda adapter: self._queue(order, prompts, adapter))

    async def under(self, name: str | None, work: Callable[[AdapterRef | None], Awaitable[T]]) -> T:
        """Do something under an adapter; again, if that was put out of memory for others before the work began.

        Raises: ModelNotFound, Overloaded, and what the work raises.
        """
        for _ in range(ADAPTER_TRIES):
            adapter = await self._find_adapter(name)
            with contextlib.suppress(AdapterParked):
                return await work(adapter)
        raise Overloaded("The adapters in memory change faster than requests can begin; try again shortly.")

    async def _queue(
        self, order: GenerationOrder, prompts: Sequence[Sequence[int]], adapter: AdapterRef | None
    ) -> Generation:
        event_loop = asyncio.get_running_loop()
        grammar = await self._grammar(order, adapter)
        sequences = [sequence for prompt in prompts for sequence in self._sequences(order, prompt, adapter, grammar)]
        generation = Generation(
            sequences={sequence.id: index for index, sequence in enumerate(sequences)},
            prompt_tokens=sum(len(prompt) for prompt in prompts),
            unfinished={sequence.id for sequence in sequences},
            choices_per_prompt=order.choices,
        )

        def deliver(output: SequenceOutput) -> None:
            event_loop.call_soon_threadsafe(generation.queue.put_nowait, output)

        submitted = self._loop.submit(sequences, deliver)
        try:
            await asyncio.wrap_future(submitted)
        except asyncio.CancelledError:
            self.cancel(generation)
            raise
        return generation

    def cancel(self, generation: Generation) -> None:
        """End what still runs of a generation, before the engine's next step."""
        if generation.unfinished:
            self._loop.cancel(list(generation.unfinished))

    async def _find_adapter(self, name: str | None) -> AdapterRef | None:
        """Return the adapter, read again if it was put out of memory for others. Raises: ModelNotFound, Overloaded."""
        if name is None:
            return None
        try:
            return await asyncio.wrap_future(self._loop.call(lambda core: core.find_adapter(name)))
        except AdapterParked as parked:
            loaded = await asyncio.to_thread(self._loop.read_adapter, parked.path)
        return await asyncio.wrap_future(self._loop.call(lambda core: core.restore_adapter(name, loaded)))

    async def _grammar(self, order: GenerationOrder, adapter: AdapterRef | None) -> Grammar | None:
        """Return what the answer has to follow: the request's schema, else what the adapter was taught to answer."""
        if order.schema is not None:
            return await asyncio.to_thread(self._grammars.compile, order.schema)
        if adapter is not None and adapter.grammar:
            return await asyncio.to_thread(self._grammars.compile_lark, adapter.grammar)
        return None

    def _sequences(
        self,
        order: GenerationOrder,
        prompt: Sequence[int],
        adapter: AdapterRef | None,
        grammar: Grammar | None,
    ) -> list[EngineSequence]:
        """Return the choices of one prompt; the first computes the prompt for all.

        Raises: ContextTooLong.
        """
        leader = self._sequence(order, prompt, 0, adapter, grammar, None)
        others = [self._sequence(order, prompt, choice, adapter, grammar, leader) for choice in range(1, order.choices)]
        return [leader, *others]

    def _sequence(
        self,
        order: GenerationOrder,
        prompt: Sequence[int],
        choice: int,
        adapter: AdapterRef | None,
        grammar: Grammar | None,
        leader: EngineSequence | None,
    ) -> EngineSequence:
        room = self._max_context - len(prompt)
        if room < 1:
            raise ContextTooLong(
                f"This model's maximum context length is {self._max_context} tokens, but the messages alone have "
                f"{len(prompt)}.",
                param="messages",
            )
        name = f"{next(self._numbers)}-{secrets.token_hex(4)}"
        salt = order.cache_salt
        if adapter is None and salt is None and order.choices > 1:
            # without a namespace nothing is kept: one of its own lets the choices share their prompt with nobody else
            salt = f"choices of {leader.id if leader else name}"
        return EngineSequence.create(
            name,
            prompt,
            order.params_of(choice, default_max_tokens=min(self._default_max_tokens, room)),
            adapter=adapter,
            decode=self._renderer.decode,
            grammar=None if grammar is None else grammar.start(),
            cache_salt=salt,
            owner=order.cache_salt or "",
            leader=leader,
            start_by=time.monotonic() + self._max_wait_s,
        )


def _failure(message: str, retry_after_s: int | None) -> EngineError:
    if retry_after_s is None:
        return GenerationFailed(message)
    return Overloaded(message, retry_after_s=retry_after_s)

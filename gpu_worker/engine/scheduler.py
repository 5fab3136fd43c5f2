"""Which tokens are computed next: admission, chunked prefill, decoding. Continuous batching, Orca (OSDI 2022)."""

import time
from collections import Counter

from gpu_worker.engine.answer_memory import least_likely
from gpu_worker.engine.block_pool import BLOCK_SIZE, BlockPool
from gpu_worker.engine.config import EngineConfig
from gpu_worker.engine.errors import ContextTooLong
from gpu_worker.engine.runner import StepRow
from gpu_worker.engine.sequence import Sequence


class Scheduler:
    """Owns the waiting line, the running sequences and their cache blocks.

    A sequence is admitted when all blocks it can ever need are free; so a running sequence never waits for memory and
    is never thrown out. The price is room reserved for answers that end early. The next one admitted is the oldest of
    the team with the fewest running sequences, of equals the one whose turn is longest ago: a burst of one team delays
    its own requests, not those of others.
    """

    def __init__(self, config: EngineConfig, pool: BlockPool, *, max_positions: int) -> None:
        self._config = config
        self._pool = pool
        self.max_context = min(config.max_context, max_positions, pool.capacity_tokens)
        self._waiting: dict[str, Sequence] = {}
        self._running: dict[str, Sequence] = {}
        self._turns: dict[str, int] = {}
        self._turn = 0

    @property
    def waiting(self) -> int:
        """Sequences that have not started."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Sequences that hold a place and cache blocks."""
        return len(self._running)

    def waiting_of(self, owner: str) -> int:
        """Return how many sequences of one team have not started."""
        return sum(sequence.owner == owner for sequence in self._waiting.values())

    def expired(self, now: float) -> list[Sequence]:
        """Return the sequences that have waited for too long; `now` on the monotonic clock."""
        return [one for one in self._waiting.values() if one.start_by is not None and one.start_by < now]

    def require_fit(self, sequence: Sequence) -> None:
        """Refuse a sequence that could not even run alone. Raises: ContextTooLong."""
        if sequence.max_length > self.max_context:
            raise ContextTooLong(
                f"This model's maximum context length is {self.max_context} tokens, but the request asks for "
                f"{sequence.max_length} ({len(sequence.prompt_ids)} in the messages, "
                f"{sequence.params.max_tokens} in the completion).",
                param="messages",
            )

    def submit(self, sequence: Sequence) -> None:
        """Put a sequence that fits at the end of the line."""
        self._waiting[sequence.id] = sequence

    def find(self, sequence_id: str) -> Sequence | None:
        """Return a sequence that has not ended."""
        return self._running.get(sequence_id) or self._waiting.get(sequence_id)

    def unfinished(self) -> list[Sequence]:
        """Return all running and waiting sequences."""
        return [*self._running.values(), *self._waiting.values()]

    def schedule(self) -> list[tuple[Sequence, StepRow]]:
        """Return the rows of the next step: every decoding sequence, and prompts as far as the budget goes."""
        decoding = [sequence for sequence in self._running.values() if not sequence.in_prefill]
        step = [(sequence, self._row(sequence, 1)) for sequence in decoding]
        budget = self._config.prefill_tokens
        for sequence in [sequence for sequence in self._running.values() if sequence.in_prefill]:
            if budget > 0:
                step.append((sequence, self._row(sequence, budget)))
                budget -= len(step[-1][1].token_ids)
        while budget > 0 and (admitted := self._admit()) is not None:
            step.append((admitted, self._row(admitted, budget)))
            budget -= len(step[-1][1].token_ids)
        return step

    def computed(self, sequence: Sequence, tokens: int) -> None:
        """Note that the keys and values of this many more tokens of a sequence are in the cache."""
        sequence.computed += tokens

    def publish(self, sequence: Sequence) -> None:
        """Let later sequences reuse what is computed of this one."""
        if sequence.namespace is not None:
            tokens = (*sequence.prompt_ids, *sequence.output_ids)
            self._pool.publish_prefix(sequence.namespace, tokens, sequence.block_table, sequence.computed)

    def remove(self, sequence: Sequence) -> None:
        """Take an ended sequence out and free its blocks."""
        if self._running.pop(sequence.id, None) is None:
            del self._waiting[sequence.id]
        self._pool.release(sequence.block_table)
        sequence.block_table = []

    def _admit(self) -> Sequence | None:
        """Move the waiting sequence whose turn it is to the running ones, if there is a place and room for it."""
        if len(self._running) >= self._config.max_running or (sequence := self._next()) is None:
            return None
        namespace = sequence.namespace
        cached = [] if namespace is None else self._pool.acquire_prefix(namespace, sequence.prompt_ids)
        missing = -(-sequence.max_length // BLOCK_SIZE) - len(cached)
        if missing > self._pool.free_blocks:
            self._pool.release(cached)
            return None
        del self._waiting[sequence.id]
        sequence.started_at = time.monotonic()
        self._turn += 1
        self._turns[sequence.owner] = self._turn
        sequence.block_table = cached + self._pool.acquire_new(missing)
        sequence.computed = sequence.cached_tokens = len(cached) * BLOCK_SIZE
        self._running[sequence.id] = sequence
        return sequence

    def _next(self) -> Sequence | None:
        """Return the sequence whose turn it is; those that wait for their leader are passed over."""
        first: dict[str, Sequence] = {}
        for sequence in self._waiting.values():
            if sequence.is_ready:
                first.setdefault(sequence.owner, sequence)
        if not first:
            return None
        running = Counter(sequence.owner for sequence in self._running.values())
        self._turns = {owner: turn for owner, turn in self._turns.items() if owner in running or owner in first}
        return min(first.values(), key=lambda one: (running[one.owner], self._turns.get(one.owner, 0)))

    def _row(self, sequence: Sequence, budget: int) -> StepRow:
        token_ids = sequence.pending_ids(budget)
        is_complete = sequence.computed + len(token_ids) == sequence.length
        draft: tuple[int, ...] = ()
        if is_complete:
            draft = sequence.draft(self._config.draft_tokens, least_likely(len(self._running)))
        end = sequence.computed + len(token_ids) + len(draft)
        return StepRow(
            sequence_id=sequence.id,
            token_ids=token_ids + draft,
            start=sequence.computed,
            block_table=tuple(sequence.block_table[: -(-end // BLOCK_SIZE)]),
            adapter_uid=sequence.adapter.uid if sequence.adapter else None,
            logit_count=1 + len(draft) if is_complete else 0,
            draft_count=len(draft),
        )

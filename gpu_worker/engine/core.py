"""The engine without threads and sockets: submit sequences, step, read what each step added."""

import itertools
import logging
import math
import time
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from gpu_worker.engine.adapter_folder import LoadedAdapter, open_adapter
from gpu_worker.engine.answer_memory import CONTEXT_TOKENS, AnswerMemory
from gpu_worker.engine.block_pool import BLOCK_SIZE, BlockPool, Namespace
from gpu_worker.engine.config import EngineConfig
from gpu_worker.engine.errors import AdapterParked, BadAdapter, BadRequest, ModelNotFound, NoRoom, Overloaded
from gpu_worker.engine.grammar import GrammarBroken
from gpu_worker.engine.likelihood import Likelihoods
from gpu_worker.engine.runner import Runner, StepRow
from gpu_worker.engine.sampling import TokenLogprob, penalised, sample_token, token_logprob
from gpu_worker.engine.scheduler import Scheduler
from gpu_worker.engine.sequence import AdapterRef, FinishReason, Sequence, SequenceOutput

logger = logging.getLogger(__name__)

CheckResult = Literal["passed", "failed", "unchecked", "none"]
"""Of the self-check: "failed" is served by the general runner, "unchecked" had no reference, "none" was no check."""


@dataclass
class EngineStats:
    """Counts since the start, and the state right now."""

    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    finished: Counter[str] = field(default_factory=Counter)
    """Ended sequences by reason."""
    running: int = 0
    waiting: int = 0
    cache_used_share: float = 0.0
    cached_blocks: int = 0
    adapters: int = 0
    parked_adapters: int = 0
    """Adapters that are known but were put out of memory for others."""
    evictions: int = 0
    self_check: CheckResult = "none"


LONGEST_RETRY_S = 60


@dataclass
class _Added:
    """What a step adds to one sequence."""

    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    reason: FinishReason | None = None


class EngineCore:
    """Ties scheduler, runner and sampling together. One thread at a time may use it."""

    def __init__(self, runner: Runner, config: EngineConfig, *, blocks: int, eos_ids: Iterable[int]) -> None:
        """`blocks`: cache blocks of the runner, the padding block included. `eos_ids`: tokens that end an answer."""
        self._runner = runner
        self._config = config if runner.accepts_drafts else replace(config, draft_tokens=0)
        self._eos_ids = frozenset(eos_ids)
        self._eos_id = min(self._eos_ids)
        self._pool = BlockPool(
            blocks,
            max_reusable=int(blocks * config.prefix_cache_share),
            prefix_cache=config.prefix_cache and runner.reuses_prefixes,
        )
        self._scheduler = Scheduler(self._config, self._pool, max_positions=runner.max_positions)
        self._adapters: OrderedDict[str, AdapterRef] = OrderedDict()
        self._parked: dict[str, Path] = {}
        self._paths: dict[str, Path] = {}
        self._forks = config.prefix_cache and runner.reuses_prefixes
        self._leaving: dict[int, AdapterRef] = {}
        self._held: Counter[int] = Counter()
        self._memories: dict[int, AnswerMemory] = {}
        self._uids = itertools.count(1)
        self._stats = EngineStats()
        self.self_check: CheckResult = "none"
        """What came out when the engine's answers were compared with transformers' at its start."""
        self._seconds_each = 1.0  # of a sequence once it runs: a moving average, for the hint when to try again

    @property
    def max_context(self) -> int:
        """Most tokens that prompt and answer of one sequence may have together."""
        return self._scheduler.max_context

    @property
    def vocabulary(self) -> int:
        """Number of token ids that the model knows."""
        return self._runner.vocabulary

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._scheduler.running or self._scheduler.waiting)

    # --- adapters ---------------------------------------------------------------------------------------------

    def adapter_names(self) -> list[str]:
        """Return the names under which adapters can be asked for, in memory or not."""
        return [*self._adapters, *self._parked]

    def find_adapter(self, name: str) -> AdapterRef:
        """Return an adapter that is in memory, and count it as used. Raises: ModelNotFound, AdapterParked."""
        if name in self._parked:
            raise AdapterParked(self._parked[name])
        if name not in self._adapters:
            raise ModelNotFound(f"The model {name!r} does not exist or is not loaded.", param="model")
        self._adapters.move_to_end(name)
        return self._adapters[name]

    def read_adapter(self, path: Path) -> LoadedAdapter:
        """Read and check an adapter folder; the only method that any thread may call. Raises: BadAdapter."""
        return self._runner.read_adapter(open_adapter(path, max_rank=self._config.max_lora_rank))

    def add_adapter(self, name: str, loaded: LoadedAdapter) -> None:
        """Make an adapter available between two steps; idle ones make room, the least recently used first.

        Raises: BadAdapter, Overloaded if there is no room as long as the others are in use.
        """
        if name in self._adapters or name in self._parked:
            raise BadAdapter(f"An adapter named {name!r} is loaded already.", code="adapter_exists")
        if len(self._paths) >= self._config.max_known_adapters:
            raise BadAdapter("Too many adapters are loaded; unload one first.", code="adapter_room_full")
        self._place_adapter(name, loaded)

    def restore_adapter(self, name: str, loaded: LoadedAdapter) -> AdapterRef:
        """Bring a parked adapter back into memory and return it; another request may have done so already.

        Raises: ModelNotFound if it was unloaded meanwhile, BadAdapter, Overloaded.
        """
        if name in self._parked:
            self._place_adapter(name, loaded)
        return self.find_adapter(name)

    def remove_adapter(self, name: str) -> None:
        """Take a name away at once; sequences that run under it end normally first. Raises: ModelNotFound."""
        if self._parked.pop(name, None) is None:
            self._withdraw(self.find_adapter(name))
        del self._paths[name]

    def _place_adapter(self, name: str, loaded: LoadedAdapter) -> None:
        rank, problem = loaded.folder.config.rank, loaded.folder.problem
        if rank > self._config.lora_rank_budget:
            raise BadAdapter(f"The adapter's rank {rank} is above {self._config.lora_rank_budget}.")
        adapter = AdapterRef(next(self._uids), name, problem.grammar if problem else "")
        while not self._fits(adapter, loaded):
            self._park_one()
        self._adapters[name] = adapter
        self._paths[name] = loaded.folder.path
        self._parked.pop(name, None)
        if self._config.draft_tokens:
            self._memories[adapter.uid] = AnswerMemory()
        logger.info("adapter %d loaded, rank %d, %d in memory", adapter.uid, rank, len(self._adapters))

    def _fits(self, adapter: AdapterRef, loaded: LoadedAdapter) -> bool:
        """Put an adapter into the runner if there is room. Raises: BadAdapter if it does not belong there."""
        if len(self._adapters) + len(self._leaving) >= self._config.max_adapters:
            return False
        try:
            self._runner.add_adapter(adapter, loaded)
        except NoRoom:
            return False
        return True

    def _park_one(self) -> None:
        """Put the least recently used idle adapter out of memory. Raises: Overloaded if all are in use."""
        in_use = self._uids_in_use()
        idle = next((adapter for adapter in self._adapters.values() if adapter.uid not in in_use), None)
        if idle is None:
            raise Overloaded("All adapters in memory are in use; try again shortly.")
        self._parked[idle.name] = self._paths[idle.name]
        self._withdraw(idle)
        self._stats.evictions += 1

    def _withdraw(self, adapter: AdapterRef) -> None:
        del self._adapters[adapter.name]
        self._leaving[adapter.uid] = adapter
        self._drop_unused_adapters()

    def _uids_in_use(self) -> set[int]:
        return {sequence.adapter.uid for sequence in self._scheduler.unfinished() if sequence.adapter} | set(self._held)

    def _drop_unused_adapters(self) -> None:
        if not self._leaving:
            return
        in_use = self._uids_in_use()
        for uid in [uid for uid in self._leaving if uid not in in_use]:
            self._pool.forget_adapter(uid)
            self._memories.pop(uid, None)
            self._runner.remove_adapter(self._leaving.pop(uid))
            logger.info("adapter %d unloaded", uid)

    @contextmanager
    def holding(self, adapter: AdapterRef | None) -> Iterator[None]:
        """Keep an adapter in memory for work that is no sequence. Raises: ModelNotFound, AdapterParked."""
        self._require_adapter(adapter)
        if adapter is not None:
            self._held[adapter.uid] += 1
        try:
            yield
        finally:
            if adapter is not None:
                self._held[adapter.uid] -= 1
                self._held = +self._held
                self._drop_unused_adapters()

    def likelihoods(self) -> Likelihoods:
        """Return a scorer of given texts; use it between two steps, with room for its tokens."""
        return Likelihoods(self._runner, self._pool)

    @property
    def scorable_tokens(self) -> int:
        """Most tokens that prompt and continuation may have together to be scored."""
        return min(self._runner.max_positions, self._pool.capacity_tokens // 2)

    def require_room(self, tokens: int) -> None:
        """Refuse to score so many tokens where the running sequences leave no room for them. Raises: Overloaded."""
        if self._pool.free_blocks < -(-tokens // BLOCK_SIZE) + 2:
            raise Overloaded("There is no room to score values beside the answers that run; try again shortly.")

    def known_tokens(self, prompt: list[int], adapter: AdapterRef | None, cache_salt: str | None) -> int:
        """Return how many tokens of a prompt the cache holds."""
        if cache_salt is None or not self._forks:
            return 0
        blocks = self._pool.acquire_prefix(Namespace(adapter.uid if adapter else None, cache_salt), prompt)
        self._pool.release(blocks)
        return len(blocks) * BLOCK_SIZE

    # --- sequences --------------------------------------------------------------------------------------------

    def submit(self, sequences: list[Sequence]) -> None:
        """Queue the sequences of one request, all or none.

        Raises: BadRequest, ContextTooLong, ModelNotFound, AdapterParked, Overloaded.
        """
        for sequence in sequences:
            self._require_adapter(sequence.adapter)
            if not all(0 <= token < self._runner.vocabulary for token in sequence.prompt_ids):
                raise BadRequest("The prompt holds a token that this model does not know.", param="prompt")
            self._scheduler.require_fit(sequence)
        self._require_places(sequences)
        for sequence in sequences:
            if sequence.adapter is not None:
                sequence.memory = self._memories.get(sequence.adapter.uid)
            if not self._forks:
                sequence.leader = None
            self._scheduler.submit(sequence)
        self._stats.prompt_tokens += sum(len(sequence.prompt_ids) for sequence in sequences)

    def _require_places(self, sequences: list[Sequence]) -> None:
        """Refuse what the waiting line cannot take, as a whole or of one team. Raises: Overloaded."""
        # What arrives between two steps counts as waiting until the next one, though places to run are free.
        places = self._config.max_waiting + max(0, self._config.max_running - self._scheduler.running)
        if self._scheduler.waiting + len(sequences) > places:
            raise Overloaded("Too many requests are waiting; try again shortly.", retry_after_s=self._retry_after_s())
        owner = sequences[0].owner
        if owner and self._scheduler.waiting_of(owner) + len(sequences) > places * self._config.max_waiting_share:
            message = "Too many of your requests are waiting; try again shortly."
            raise Overloaded(message, retry_after_s=self._retry_after_s())

    def _retry_after_s(self) -> int:
        """Return in how many seconds half of the line will have gone, judged by the last answers."""
        seconds = self._scheduler.waiting / 2 * self._seconds_each / self._config.max_running
        return max(1, min(math.ceil(seconds), LONGEST_RETRY_S))

    def _require_adapter(self, adapter: AdapterRef | None) -> None:
        """Refuse an adapter that left memory since the request looked it up. Raises: ModelNotFound, AdapterParked."""
        if adapter is not None and adapter not in (self._adapters.get(adapter.name), self._leaving.get(adapter.uid)):
            if adapter.name in self._paths:
                raise AdapterParked(self._paths[adapter.name])
            raise ModelNotFound(f"The model {adapter.name!r} does not exist or is not loaded.", param="model")

    def cancel(self, sequence_id: str) -> None:
        """End a sequence before the next step; one that has ended already is left alone."""
        sequence = self._scheduler.find(sequence_id)
        if sequence is not None:
            self._end(sequence, FinishReason.CANCELLED)

    def abort(self, reason: str) -> None:
        """End every sequence at once; nothing of it is reused."""
        for sequence in self._scheduler.unfinished():
            self._fail(sequence, reason)

    def step(self) -> list[SequenceOutput]:
        """Compute one step and return what it added. Nothing is returned for sequences still in prefill."""
        expired = [self._expire(sequence) for sequence in self._scheduler.expired(time.monotonic())]
        rows = self._scheduler.schedule()
        if not rows:
            return expired
        logits = self._runner.forward([row for _, row in rows])
        self._stats.steps += 1
        outputs, first = expired, 0
        for sequence, row in rows:
            self._scheduler.computed(sequence, len(row.token_ids) - row.draft_count)
            if row.logit_count:
                outputs.append(self._extend(sequence, row, logits[first : first + row.logit_count]))
            first += row.logit_count
        return outputs

    def stats(self) -> EngineStats:
        """Return current counts."""
        self._stats.self_check = self.self_check
        self._stats.running, self._stats.waiting = self._scheduler.running, self._scheduler.waiting
        self._stats.cache_used_share = self._pool.used_share
        self._stats.cached_blocks = self._pool.cached_blocks
        self._stats.adapters, self._stats.parked_adapters = len(self._adapters), len(self._parked)
        return self._stats

    def _extend(self, sequence: Sequence, row: StepRow, logits: Tensor) -> SequenceOutput:
        """Add the next token to a sequence, and as many more as its draft foresaw.

        Shapes: logits (1 + draft_count, vocabulary).
        """
        if not bool(torch.isfinite(logits.sum())):
            return self._fail(sequence, "The model produced numbers that are not finite; the adapter may be damaged.")
        if not sequence.output_ids:
            self._scheduler.publish(sequence)
            self._stats.cached_tokens += sequence.cached_tokens
        draft = row.token_ids[len(row.token_ids) - row.draft_count :]
        added = _Added()
        for position in range(row.logit_count):
            try:
                token = self._add_token(sequence, logits[position], added)
            except GrammarBroken:
                return self._fail(sequence, "The answer cannot be continued within its schema.")
            if added.reason is not None or position == row.draft_count or token != draft[position]:
                break
            self._scheduler.computed(sequence, 1)
        self._stats.generated_tokens += len(added.token_ids)
        if added.reason is not None:
            self._end(sequence, added.reason)
        return SequenceOutput(
            sequence.id,
            tuple(added.token_ids),
            added.text,
            tuple(added.logprobs),
            added.reason,
            sequence.cached_tokens,
        )

    def _add_token(self, sequence: Sequence, logits: Tensor, added: "_Added") -> int:
        """Choose the next token and note what it brings. Shapes: logits (vocabulary,). Raises: GrammarBroken."""
        params, grammar = sequence.params, sequence.grammar
        allowed = logits if grammar is None else grammar.mask(logits)
        token = sample_token(penalised(allowed, sequence.output_ids, params), params, sequence.generator)
        sequence.output_ids.append(token)
        added.token_ids.append(token)
        if sequence.memory is not None:
            sequence.memory.learn(sequence.tail(CONTEXT_TOKENS + 1))
        if params.logprobs is not None:
            added.logprobs.append(token_logprob(logits, token, params.logprobs))
        text, added.reason = self._text_of(sequence, token)
        added.text += text
        if grammar is not None and added.reason is None:
            grammar.accept(token)
            if grammar.finished:
                # nothing but the end can follow: no step is spent on hearing it
                sequence.output_ids.append(self._eos_id)
                added.token_ids.append(self._eos_id)
                added.text += sequence.text.finish()
                added.reason = FinishReason.LENGTH if sequence.text.stopped else FinishReason.STOP
        return token

    def _text_of(self, sequence: Sequence, token: int) -> tuple[str, FinishReason | None]:
        """Return the text that may be sent after this token, and why the sequence ends here, if it does."""
        if token in self._eos_ids and not sequence.params.ignore_eos:
            return sequence.text.finish(), FinishReason.STOP
        text = sequence.text.push(token)
        # Held to a schema, what a stop text cuts off is no whole answer, and must not look like one.
        when_stopped = FinishReason.STOP if sequence.grammar is None else FinishReason.LENGTH
        if sequence.text.stopped:
            return text, when_stopped
        if len(sequence.output_ids) >= sequence.params.max_tokens:
            text += sequence.text.finish()
            return text, when_stopped if sequence.text.stopped else FinishReason.LENGTH
        return text, None

    def _fail(self, sequence: Sequence, message: str) -> SequenceOutput:
        """End a sequence without an answer, and keep what it left in the cache from everyone else."""
        logger.error("sequence %s failed after %d tokens: %s", sequence.id, len(sequence.output_ids), message)
        self._runner.scrub(self._pool.private_blocks(sequence.block_table))
        self._end(sequence, FinishReason.ERROR)
        return SequenceOutput(sequence.id, (), "", (), FinishReason.ERROR, sequence.cached_tokens, error=message)

    def _expire(self, sequence: Sequence) -> SequenceOutput:
        self._end(sequence, FinishReason.EXPIRED)
        message = "The engine is too busy to start this request in time; try again shortly."
        return SequenceOutput(
            sequence.id, (), "", (), FinishReason.EXPIRED, 0, error=message, retry_after_s=self._retry_after_s()
        )

    def _end(self, sequence: Sequence, reason: FinishReason) -> None:
        sequence.finish_reason = reason
        if reason in (FinishReason.STOP, FinishReason.LENGTH):
            self._scheduler.publish(sequence)
            if sequence.started_at is not None:
                self._seconds_each += (time.monotonic() - sequence.started_at - self._seconds_each) / 8
        self._scheduler.remove(sequence)
        self._runner.release(sequence.id)
        self._stats.finished[reason.value] += 1
        self._drop_unused_adapters()

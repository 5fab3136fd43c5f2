"""One sequence: a prompt, the adapter it runs under, and the answer so far."""

from collections.abc import Sequence as TokenIds
from dataclasses import dataclass, field
from enum import StrEnum

import torch

from gpu_worker.engine.answer_memory import CONTEXT_TOKENS, AnswerMemory
from gpu_worker.engine.block_pool import Namespace
from gpu_worker.engine.grammar import GrammarState
from gpu_worker.engine.sampling import SamplingParams, TokenLogprob, seeded_generator
from gpu_worker.engine.text_stream import Decode, TextStream


class FinishReason(StrEnum):
    """Why a sequence ended. The first two are OpenAI's words and reach clients."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    ERROR = "error"


@dataclass(frozen=True)
class AdapterRef:
    """A loaded adapter. `uid` is never used twice in a process, a name may be; caches use the uid.

    `grammar`: what its answers follow unless a request says otherwise, in Lark; empty for free text.
    """

    uid: int
    name: str
    grammar: str = ""


@dataclass
class Sequence:
    """State of one answer being generated. The scheduler and the core are the only writers."""

    id: str
    prompt_ids: tuple[int, ...]
    params: SamplingParams
    adapter: AdapterRef | None
    text: TextStream
    generator: torch.Generator | None
    grammar: GrammarState | None = None
    memory: AnswerMemory | None = None
    cache_salt: str | None = None
    owner: str = ""
    """Whose request it is, for a fair order; empty if nobody said."""
    leader: "Sequence | None" = None
    """A sequence of the same prompt that computes it first; this one starts when it can reuse that."""
    start_by: float | None = None
    """When waiting to start is given up, on the monotonic clock; None: never."""
    started_at: float | None = None
    """When it was admitted, on the monotonic clock."""
    output_ids: list[int] = field(default_factory=list)
    computed: int = 0
    """Tokens whose keys and values are in the cache."""
    block_table: list[int] = field(default_factory=list)
    """Cache blocks of the sequence, in order of position."""
    cached_tokens: int = 0
    """Prompt tokens taken from the prefix cache instead of being computed."""
    finish_reason: FinishReason | None = None

    @classmethod
    def create(
        cls,
        sequence_id: str,
        prompt_ids: TokenIds[int],
        params: SamplingParams,
        *,
        adapter: AdapterRef | None,
        decode: Decode,
        grammar: GrammarState | None = None,
        cache_salt: str | None = None,
        owner: str = "",
        leader: "Sequence | None" = None,
        start_by: float | None = None,
    ) -> "Sequence":
        """Return a new sequence with its own random source and text stream."""
        return cls(
            id=sequence_id,
            prompt_ids=tuple(prompt_ids),
            params=params,
            adapter=adapter,
            text=TextStream(decode, params.stop),
            generator=seeded_generator(params),
            grammar=grammar,
            cache_salt=cache_salt,
            owner=owner,
            leader=leader,
            start_by=start_by,
        )

    @property
    def is_ready(self) -> bool:
        """Whether nothing has to be waited for but room."""
        return self.leader is None or bool(self.leader.output_ids) or self.leader.finish_reason is not None

    @property
    def namespace(self) -> Namespace | None:
        """Return where prefixes of this sequence may be kept and found; None for nowhere."""
        if self.adapter is None and self.cache_salt is None:
            return None
        return Namespace(self.adapter.uid if self.adapter else None, self.cache_salt)

    @property
    def length(self) -> int:
        """Number of prompt and answer tokens so far."""
        return len(self.prompt_ids) + len(self.output_ids)

    @property
    def max_length(self) -> int:
        """Number of tokens at which the sequence ends at the latest."""
        return len(self.prompt_ids) + self.params.max_tokens

    @property
    def in_prefill(self) -> bool:
        """Whether the prompt is not yet computed completely."""
        return not self.output_ids

    def pending_ids(self, limit: int) -> tuple[int, ...]:
        """Return up to `limit` known tokens that are not computed yet."""
        if self.output_ids:
            return tuple(self.output_ids[self.computed - len(self.prompt_ids) :][:limit])
        return self.prompt_ids[self.computed : self.computed + limit]

    def tail(self, count: int) -> list[int]:
        """Return the last `count` tokens of prompt and answer."""
        missing = count - len(self.output_ids)
        if missing <= 0:
            return self.output_ids[-count:]
        return [*self.prompt_ids[-missing:], *self.output_ids]

    def draft(self, limit: int, least: float) -> tuple[int, ...]:
        """Return tokens that are expected to follow, up to `limit` and never beyond the sequence's end.

        `least`: how likely those must be that nothing forces. The step that computes them also verifies them, so a
        wrong draft costs time and changes nothing.
        """
        limit = min(limit, self.params.max_tokens - len(self.output_ids) - 1)
        if limit < 1:
            return ()
        forced = () if self.grammar is None else self.grammar.forced(limit)
        if self.memory is None or len(forced) == limit:
            return forced
        tail = [*self.tail(CONTEXT_TOKENS), *forced]
        return forced + self.memory.expect(tail, limit - len(forced), least)


@dataclass(frozen=True)
class SequenceOutput:
    """What one step added to one sequence."""

    sequence_id: str
    token_ids: tuple[int, ...]
    text: str
    logprobs: tuple[TokenLogprob, ...]
    finish_reason: FinishReason | None
    cached_tokens: int
    error: str | None = None
    retry_after_s: int | None = None
    """With `error`: in how many seconds another try makes sense; None: it does not."""

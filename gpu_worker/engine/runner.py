"""The seam between scheduling and arithmetic: a step goes in as rows of token ids, logits come out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from gpu_worker.engine.adapter_folder import AdapterFolder, LoadedAdapter
from gpu_worker.engine.sequence import AdapterRef


@dataclass(frozen=True)
class StepRow:
    """The tokens of one sequence that a step computes: one decoded token, or a piece of a prompt, and a draft."""

    sequence_id: str
    token_ids: tuple[int, ...]
    start: int
    """Position of the first token in its sequence; everything before it is in the cache."""
    block_table: tuple[int, ...]
    """Cache blocks of the sequence, covering at least the row's last position."""
    adapter_uid: int | None
    logit_count: int
    """Logits are wanted after each of the last `logit_count` tokens; 0 for an inner piece of a prompt."""
    draft_count: int = 0
    """How many of the last tokens are only expected; where they turn out wrong, the next row starts before them."""
    parents: tuple[int, ...] = ()
    """If the tokens are a tree instead of a chain: for each the place of the one that it follows, -1 for the cache."""


class Runner(Protocol):
    """Executes steps. Knows nothing of requests, text or waiting lines; only one thread may use it."""

    reuses_prefixes: bool
    """Whether a row may start behind cache blocks that another sequence computed."""
    accepts_drafts: bool
    """Whether a row may start at a position that an earlier row of the sequence has written already."""
    vocabulary: int
    """Number of token ids that the model knows."""
    max_positions: int
    """Longest sequence that the model can read, in tokens."""

    def forward(self, rows: Sequence[StepRow]) -> Tensor:
        """Compute the rows together and return their logits in the order of the rows.

        Shapes: result (sum of logit_count, vocabulary), float32 on the CPU.
        """
        ...

    def read_adapter(self, folder: AdapterFolder) -> LoadedAdapter:
        """Read an adapter and check it against the base model; any thread may. Raises: BadAdapter."""
        ...

    def add_adapter(self, adapter: AdapterRef, loaded: LoadedAdapter) -> None:
        """Make an adapter usable from the next step on. Raises: BadAdapter if there is no room."""
        ...

    def remove_adapter(self, adapter: AdapterRef) -> None:
        """Give up an adapter that no sequence uses any more."""
        ...

    def release(self, sequence_id: str) -> None:
        """Forget what is kept for a sequence that has ended."""
        ...

    def copy_block(self, source: int, target: int) -> None:
        """Copy the content of a cache block, where the runner keeps its cache in blocks."""
        ...

    def scrub(self, blocks: Sequence[int]) -> None:
        """Overwrite cache blocks whose content must not reach another sequence."""
        ...

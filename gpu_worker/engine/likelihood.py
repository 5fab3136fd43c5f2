"""How likely given texts are as continuations of a prompt: for evaluation, on an engine that does nothing else."""

import contextlib
import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gpu_worker.engine.block_pool import BLOCK_SIZE, BlockPool, Namespace
from gpu_worker.engine.runner import Runner, StepRow
from gpu_worker.engine.sequence import AdapterRef

TOKENS_PER_STEP = 512
"""Most logit rows at once: a vocabulary of 50,000 makes 100 MB of them."""

TokenIds = Sequence[int]


class Likelihoods:
    """Scores continuations; the prompt is computed once, however many continuations it has."""

    def __init__(self, runner: Runner, pool: BlockPool) -> None:
        self._runner = runner
        self._pool = pool
        self._numbers = itertools.count()

    def of(
        self,
        prompt: TokenIds,
        continuations: Sequence[TokenIds],
        adapter: AdapterRef | None,
        *,
        cache_salt: str | None = None,
    ) -> list[list[float]]:
        """Return the natural log probability of every token of every continuation, under the adapter or without.

        With `cache_salt`, what the cache knows of the prompt's beginning under it is used, and added to.
        Raises: ValueError for an empty prompt or continuation, or if one is too long for model or cache.
        """
        if not prompt or not all(continuations):
            raise ValueError("nothing to score")
        longest = len(prompt) + max(map(len, continuations), default=0)
        if longest > min(self._runner.max_positions, self._pool.capacity_tokens // 2):
            raise ValueError(f"{longest} tokens are too many")
        uid = adapter.uid if adapter else None
        if not self._runner.reuses_prefixes:
            return [_of_targets(self._alone(prompt, ids, uid), [ids])[0] for ids in continuations]
        before = len(prompt) - 1
        with self._computed(prompt, uid, cache_salt) as shared:
            found: list[list[float]] = []
            for part in self._parts(continuations, before):
                found += _of_targets(self._together(prompt, part, shared, uid), part)
            return found

    def next_token(self, prompt: TokenIds, adapter: AdapterRef | None, *, cache_salt: str | None = None) -> Tensor:
        """Return the natural log probability of every token as the one behind the prompt. Shapes: (vocabulary,).

        Raises: ValueError for an empty prompt, or one that is too long for model or cache.
        """
        if not 0 < len(prompt) < min(self._runner.max_positions, self._pool.capacity_tokens // 2):
            raise ValueError(f"{len(prompt)} tokens are too few or too many")
        uid = adapter.uid if adapter else None
        if not self._runner.reuses_prefixes:
            return self._alone(prompt, [0], uid)[0].log_softmax(-1)
        with self._computed(prompt, uid, cache_salt) as shared:
            return self._together(prompt, [[0]], shared, uid)[0].log_softmax(-1)

    @contextlib.contextmanager
    def _computed(self, prompt: TokenIds, uid: int | None, cache_salt: str | None) -> Iterator[list[int]]:
        """Yield cache blocks that hold the prompt but for its last token."""
        before = len(prompt) - 1
        namespace = Namespace(uid, cache_salt) if cache_salt is not None else None
        known = [] if namespace is None else self._pool.acquire_prefix(namespace, prompt)
        shared = known + self._pool.acquire_new(_blocks(before) - len(known))
        try:
            for start in range(len(known) * BLOCK_SIZE, before, TOKENS_PER_STEP):
                piece = tuple(prompt[start : min(start + TOKENS_PER_STEP, before)])
                self._runner.forward([self._row(piece, start, shared, uid, logits=0)])
            if namespace is not None:
                self._pool.publish_prefix(namespace, tuple(prompt), shared, before)
            yield shared
        finally:
            self._pool.release(shared)

    def _parts(self, continuations: Sequence[TokenIds], before: int) -> list[list[TokenIds]]:
        """Cut the continuations into steps that fit into cache and memory, in their order."""
        parts: list[list[TokenIds]] = [[]]
        tokens = blocks = 0
        for ids in continuations:
            need = _blocks(before % BLOCK_SIZE + len(ids))
            if parts[-1] and (tokens + len(ids) > TOKENS_PER_STEP or blocks + need > self._pool.free_blocks):
                parts.append([])
                tokens = blocks = 0
            parts[-1].append(ids)
            tokens, blocks = tokens + len(ids), blocks + need
        return parts

    def _together(self, prompt: TokenIds, part: Sequence[TokenIds], shared: list[int], uid: int | None) -> Tensor:
        """Return the logits of one step: each continuation begins behind the shared blocks, with a copy of the last."""
        before = len(prompt) - 1
        whole = before // BLOCK_SIZE
        own = [self._pool.acquire_new(_blocks(before % BLOCK_SIZE + len(ids))) for ids in part]
        try:
            rows = []
            for ids, blocks in zip(part, own, strict=True):
                if before % BLOCK_SIZE:
                    self._runner.copy_block(shared[whole], blocks[0])
                table = [*shared[:whole], *blocks]
                rows.append(self._row((prompt[-1], *ids[:-1]), before, table, uid, logits=len(ids)))
            return self._forward(rows)
        finally:
            for blocks in own:
                self._pool.release(blocks)

    def _forward(self, rows: list[StepRow]) -> Tensor:
        """Return the logits of the rows; a single row longer than a step is computed piece by piece."""
        if len(rows) > 1 or rows[0].logit_count <= TOKENS_PER_STEP:
            return self._runner.forward(rows)
        row, pieces = rows[0], []
        for start in range(0, len(row.token_ids), TOKENS_PER_STEP):
            ids = row.token_ids[start : start + TOKENS_PER_STEP]
            pieces.append(
                self._runner.forward(
                    [self._row(ids, row.start + start, row.block_table, row.adapter_uid, logits=len(ids))]
                )
            )
        return torch.cat(pieces)

    def _alone(self, prompt: TokenIds, continuation: TokenIds, uid: int | None) -> Tensor:
        """Return the logits of one continuation computed with its prompt, where each sequence has its own cache."""
        row = self._row((*prompt, *continuation[:-1]), 0, (), uid, logits=len(continuation))
        try:
            return self._runner.forward([row])
        finally:
            self._runner.release(row.sequence_id)

    def _row(self, ids: tuple[int, ...], start: int, blocks: Sequence[int], uid: int | None, *, logits: int) -> StepRow:
        name = f"likelihood-{next(self._numbers)}"
        return StepRow(name, ids, start, tuple(blocks), uid, logits)


def _blocks(tokens: int) -> int:
    return -(-tokens // BLOCK_SIZE)


def _of_targets(logits: Tensor, continuations: Sequence[TokenIds]) -> list[list[float]]:
    """Return the log probability of each wanted token. Shapes: logits (tokens of all continuations, vocabulary)."""
    targets = torch.tensor([token for ids in continuations for token in ids])
    chosen = logits.gather(1, targets[:, None])[:, 0] - logits.logsumexp(-1)
    flat = iter(chosen.tolist())
    return [list(itertools.islice(flat, len(ids))) for ids in continuations]

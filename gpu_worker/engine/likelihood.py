"""How likely given texts are as continuations of a prompt: for evaluation, on an engine that does nothing else."""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from gpu_worker.engine.block_pool import BLOCK_SIZE, BlockPool, Namespace
from gpu_worker.engine.runner import Runner, StepRow
from gpu_worker.engine.sequence import AdapterRef
from gpu_worker.engine.token_tree import TokenIds, parts, token_tree

TOKENS_PER_STEP = 512
"""Most logit rows at once: a vocabulary of 50,000 makes 100 MB of them."""

Forward = Callable[[Sequence[StepRow]], Tensor]

_numbers = itertools.count()


class Place(Protocol):
    """The place behind a prompt that has been computed."""

    @property
    def next_token(self) -> Tensor:
        """Natural log probability of every token as the next one. Shapes: (vocabulary,)."""
        ...

    def of(self, continuations: Sequence[TokenIds]) -> list[list[float]]:
        """Return the natural log probability of every token of every continuation.

        Raises: ValueError for an empty continuation, or one that is too long for model or cache.
        """
        ...


class Likelihoods:
    """Scores continuations; the prompt is computed once, however many continuations it has."""

    def __init__(self, runner: Runner, pool: BlockPool, forward: Forward | None = None) -> None:
        """`forward` computes the runner's steps where something stands between, such as others' steps."""
        self._runner = runner
        self._pool = pool
        self._forward = forward or runner.forward

    @property
    def forward(self) -> Forward:
        """Return what computes its steps."""
        return self._forward

    def through(self, forward: Forward) -> "Likelihoods":
        """Return a scorer on the same cache whose steps go another way."""
        return Likelihoods(self._runner, self._pool, forward)

    def of(
        self,
        prompt: TokenIds,
        continuations: Sequence[TokenIds],
        adapter: AdapterRef | None,
        *,
        cache_salt: str | None = None,
    ) -> list[list[float]]:
        """Return the natural log probability of every token of every continuation, under the adapter or without.

        Raises: ValueError for an empty prompt or continuation, or if one is too long for model or cache.
        """
        with self.behind(prompt, adapter, cache_salt=cache_salt) as place:
            return place.of(continuations)

    @contextlib.contextmanager
    def behind(self, prompt: TokenIds, adapter: AdapterRef | None, *, cache_salt: str | None = None) -> Iterator[Place]:
        """Yield the place behind a prompt, computed once for all that is asked there.

        With `cache_salt`, what the cache knows of the prompt's beginning under it is used, and added to.
        Raises: ValueError for an empty prompt, or one that is too long for model or cache.
        """
        most = min(self._runner.max_positions, self._pool.capacity_tokens // 2)
        if not 0 < len(prompt) < most:
            raise ValueError(f"{len(prompt)} tokens are too few or too many")
        uid = adapter.uid if adapter else None
        if not self._runner.reuses_prefixes:
            yield _LonePlace(self._runner, self._forward, prompt, uid, most)
            return
        namespace = Namespace(uid, cache_salt) if cache_salt is not None else None
        known = [] if namespace is None else self._pool.acquire_prefix(namespace, prompt)
        shared = known
        try:
            shared = known + self._pool.acquire_new(_blocks(len(prompt)) - len(known))
            for start in range(len(known) * BLOCK_SIZE, len(prompt), TOKENS_PER_STEP):
                piece = prompt[start : start + TOKENS_PER_STEP]
                is_last = start + len(piece) == len(prompt)
                logits = self._forward([_row(piece, start, shared, uid, logits=int(is_last))])
            if namespace is not None:
                self._pool.publish_prefix(namespace, tuple(prompt), shared, len(prompt))
            yield _CachedPlace(self._forward, self._pool, shared, len(prompt), uid, most, logits[0])
        finally:
            self._pool.release(shared)


class _CachedPlace:
    """Continuations of one prompt as a tree behind its cache blocks: a token that several share is computed once."""

    def __init__(
        self,
        forward: Forward,
        pool: BlockPool,
        shared: list[int],
        start: int,
        uid: int | None,
        most: int,
        logits: Tensor,
    ) -> None:
        """`start`: tokens of the prompt. `logits` behind it. Shapes: (vocabulary,)."""
        self._forward = forward
        self._pool = pool
        self._shared = shared
        self._start = start
        self._uid = uid
        self._most = most
        self.next_token = logits.log_softmax(-1)

    def of(self, continuations: Sequence[TokenIds]) -> list[list[float]]:
        _require_short(continuations, self._most - self._start)
        found: list[list[float]] = [[float(self.next_token[ids[0]])] for ids in continuations]
        longer = [place for place, ids in enumerate(continuations) if len(ids) > 1]
        texts = [continuations[place] for place in longer]
        for part in parts(texts, min(TOKENS_PER_STEP, self._pool.free_blocks * BLOCK_SIZE)):
            score = self._tree if len(part) > 1 else self._chain
            for place, logprobs in zip(part, score([texts[place] for place in part]), strict=True):
                found[longer[place]] += logprobs
        return found

    def _tree(self, texts: Sequence[TokenIds]) -> list[list[float]]:
        """Score all tokens but the first of each text in one step."""
        tree = token_tree(texts)
        count = len(tree.token_ids)
        with self._room(count) as blocks:
            row = _row(tree.token_ids, self._start, blocks, self._uid, logits=count, parents=tree.parents)
            logits = self._forward([row])
        nodes = [node for path in tree.paths for node in path]
        chosen = iter(_chosen(logits, nodes, [token for ids in texts for token in ids[1:]]))
        return [list(itertools.islice(chosen, len(path))) for path in tree.paths]

    def _chain(self, texts: Sequence[TokenIds]) -> list[list[float]]:
        """Score all tokens but the first of the only text, piece by piece if it is longer than a step."""
        (ids,) = texts
        found: list[float] = []
        with self._room(len(ids) - 1) as blocks:
            for start in range(0, len(ids) - 1, TOKENS_PER_STEP):
                piece = ids[start : min(start + TOKENS_PER_STEP, len(ids) - 1)]
                row = _row(piece, self._start + start, blocks, self._uid, logits=len(piece))
                logits = self._forward([row])
                found += _chosen(logits, range(len(piece)), ids[start + 1 : start + 1 + len(piece)])
        return [found]

    @contextlib.contextmanager
    def _room(self, tokens: int) -> Iterator[list[int]]:
        """Yield the prompt's blocks and as many behind them as the tokens need."""
        own = self._pool.acquire_new(_blocks(self._start + tokens) - len(self._shared))
        try:
            yield [*self._shared, *own]
        finally:
            self._pool.release(own)


class _LonePlace:
    """Continuations computed one by one together with their prompt, where each sequence has its own cache."""

    def __init__(self, runner: Runner, forward: Forward, prompt: TokenIds, uid: int | None, most: int) -> None:
        self._runner = runner
        self._forward = forward
        self._prompt = prompt
        self._uid = uid
        self._most = most

    @property
    def next_token(self) -> Tensor:
        return self._logits([0])[0].log_softmax(-1)

    def of(self, continuations: Sequence[TokenIds]) -> list[list[float]]:
        _require_short(continuations, self._most - len(self._prompt))
        return [_chosen(self._logits(ids), range(len(ids)), ids) for ids in continuations]

    def _logits(self, ids: TokenIds) -> Tensor:
        row = _row((*self._prompt, *ids[:-1]), 0, (), self._uid, logits=len(ids))
        try:
            return self._forward([row])
        finally:
            self._runner.release(row.sequence_id)


def _require_short(continuations: Sequence[TokenIds], most: int) -> None:
    if not all(continuations):
        raise ValueError("nothing to score")
    longest = max(map(len, continuations), default=0)
    if longest > most:
        raise ValueError(f"{longest} tokens are too many")


def _row(
    ids: TokenIds,
    start: int,
    blocks: Sequence[int],
    uid: int | None,
    *,
    logits: int,
    parents: tuple[int, ...] = (),
) -> StepRow:
    return StepRow(f"likelihood-{next(_numbers)}", tuple(ids), start, tuple(blocks), uid, logits, parents=parents)


def _blocks(tokens: int) -> int:
    return -(-tokens // BLOCK_SIZE)


def _chosen(logits: Tensor, rows: Sequence[int], tokens: Sequence[int]) -> list[float]:
    """Return the log probability of each token by the logits of a row. Shapes: logits (rows, vocabulary)."""
    at = torch.tensor(rows)
    return (logits[at, torch.tensor(tokens)] - logits.logsumexp(-1)[at]).tolist()

"""Rows as one packed micro-batch: the shared beginning once, then each row's own words, without padding.

Packed order of tokens: `prefix` (P tokens, in which every row of the micro-batch begins), own words of row 0, own words
of row 1, … Causal attention makes this exact: what a model computes for the first P tokens depends on them alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gpu_worker.trainer.rows import EncodedRow, common_prefix_length

SHORTEST_PREFIX = 4  # below, a second attention block costs more than it saves


@dataclass(frozen=True)
class AttentionBlock:
    """Packed tokens that attend together, padded to a rectangle for attention only.

    R rows of Lq queries and Lk = P + Lq keys; P is 0 in the prefix's own block. `first` … `end` are the packed tokens
    this block owns. Index tensors: `query_tokens` (R·Lq,) and `key_tokens` (R·Lk,) name the packed token at each place
    of the rectangle (token 0 where there is none); `slots` (end − first,) is the place of each owned token among the
    queries. `mask` (1, Lq, Lk): 0 where a query may look, −inf where not; the same for all rows, since a row's padding
    stands behind its words, where causality hides it.
    """

    rows: int
    queries: int
    keys: int
    prefix: int
    first: int
    end: int
    query_tokens: Tensor
    key_tokens: Tensor
    slots: Tensor
    mask: Tensor


@dataclass(frozen=True)
class PackedBatch:
    """A micro-batch of T packed tokens with L label tokens.

    `token_ids`, `positions`: (T,). `predicting` (L,): packed tokens whose next token is a label; `labels` (L,): those.
    """

    token_ids: Tensor
    positions: Tensor
    blocks: tuple[AttentionBlock, ...]
    predicting: Tensor
    labels: Tensor


def pack(rows: Sequence[EncodedRow]) -> PackedBatch:
    """Pack rows; cost is linear in their tokens."""
    prefix = shared_prefix(rows)
    token_ids = list(rows[0].token_ids[:prefix])
    positions = list(range(prefix))
    predicting: list[int] = []
    labels: list[int] = []
    for row in rows:
        offset = len(token_ids) - prefix  # packed place of a row's token = offset + its place in the row
        predicting += range(offset + row.prompt_length - 1, offset + len(row.token_ids) - 1)
        labels += row.token_ids[row.prompt_length :]
        token_ids += row.token_ids[prefix:]
        positions += range(prefix, len(row.token_ids))
    own_lengths = [len(row.token_ids) - prefix for row in rows]
    own = _own_block(own_lengths, prefix)
    return PackedBatch(
        token_ids=torch.tensor(token_ids),
        positions=torch.tensor(positions),
        blocks=(_prefix_block(prefix), own) if prefix else (own,),
        predicting=torch.tensor(predicting),
        labels=torch.tensor(labels),
    )


def shared_prefix(rows: Sequence[EncodedRow]) -> int:
    """Return how many tokens all rows begin with, at least one token short of every answer.

    The token before an answer predicts a label, so it must be every row's own.
    """
    if len(rows) < 2:
        return 0
    common = common_prefix_length([row.token_ids for row in rows])
    prefix = min(common, *(row.prompt_length - 1 for row in rows))
    return prefix if prefix >= SHORTEST_PREFIX else 0


def _prefix_block(prefix: int) -> AttentionBlock:
    tokens = torch.arange(prefix)
    return AttentionBlock(1, prefix, prefix, 0, 0, prefix, tokens, tokens, tokens, _causal(prefix, 0))


def _own_block(lengths: Sequence[int], prefix: int) -> AttentionBlock:
    longest = max(lengths)
    query_tokens = torch.zeros(len(lengths), longest, dtype=torch.long)
    slots = []
    start = prefix
    for number, length in enumerate(lengths):
        query_tokens[number, :length] = torch.arange(start, start + length)
        slots.append(torch.arange(number * longest, number * longest + length))
        start += length
    key_tokens = torch.cat([torch.arange(prefix).expand(len(lengths), prefix), query_tokens], dim=1)
    return AttentionBlock(
        rows=len(lengths),
        queries=longest,
        keys=prefix + longest,
        prefix=prefix,
        first=prefix,
        end=start,
        query_tokens=query_tokens.flatten(),
        key_tokens=key_tokens.flatten(),
        slots=torch.cat(slots),
        mask=_causal(longest, prefix),
    )


def _causal(queries: int, prefix: int) -> Tensor:
    """Return a mask (1, queries, prefix + queries): each query sees the prefix, earlier queries and itself."""
    visible = torch.ones(queries, prefix + queries, dtype=torch.bool).tril_(diagonal=prefix)
    return torch.zeros(visible.shape).masked_fill_(~visible, float("-inf"))[None]

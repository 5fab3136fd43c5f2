"""Rows as one packed micro-batch: the shared beginning once, then each row's own words, none of them padded.

Packed order of tokens: `prefix` (P tokens, in which every row of the micro-batch begins), own words of row 0, own words
of row 1, …, and tokens that fill up the step, which see nothing but themselves. Causal attention makes this exact: what
a model computes for the first P tokens depends on them alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from datasets_app.learned_rows import EncodedRow
from gpu_worker.trainer.rows import common_prefix_length

SHORTEST_PREFIX = 4  # below, a second attention block costs more than it saves


@dataclass(frozen=True)
class HeadLayout:
    """H query heads share K key/value heads, G = H / K each. A packed token's stacked heads are H + K + K rows."""

    heads: int
    key_value_heads: int

    @property
    def group(self) -> int:
        """G, the query heads per key/value head."""
        return self.heads // self.key_value_heads


@dataclass(frozen=True)
class AttentionBlock:
    """Packed tokens that attend together, padded to a rectangle for attention only.

    R rows of Lq queries and Lk = P + Lq keys; P is 0 in the prefix's own block. `first` … `end` are the n packed
    tokens this block owns. Query heads that share keys are folded into one axis, so keys are never repeated: folded
    queries are (R·K, G·Lq, m), folded keys (R·K, Lk, m), with m the head size.

    Gathering is by rows of m numbers, straight from one layout into the other:
    `query_places`, `key_places`: for each folded query or key its row among rotated heads, T·(H + K) rows in all;
    `value_places`: for each folded value its row among stacked heads, T·(H + 2K) rows in all;
    `owned_queries` (n·H,), `owned_keys` (n·K,): for each head of each owned token its folded row.
    `mask` (1, G·Lq, Lk): 0 where a query may look, −inf where not; the same for all rows, since a row's padding
    stands behind its words, where causality hides it.
    """

    rows: int
    queries: int
    keys: int
    prefix: int
    first: int
    end: int
    query_places: Tensor
    key_places: Tensor
    value_places: Tensor
    owned_queries: Tensor
    owned_keys: Tensor
    mask: Tensor


@dataclass(frozen=True)
class RowSpan:
    """One row's own packed tokens, [first, first + count), which look at the first `prefix` tokens and themselves."""

    first: int
    count: int
    prefix: int


@dataclass(frozen=True)
class PackedBatch:
    """A micro-batch of T packed tokens with L label tokens.

    `spans`: the shared prefix, if there is one, then the rows, then the filling. `blocks`: the same, as rectangles.
    `token_ids`, `positions`: (T,). `predicting` (L,): packed tokens whose next token is a label; `labels` (L,): those.
    """

    token_ids: Tensor
    positions: Tensor
    spans: tuple[RowSpan, ...]
    blocks: tuple[AttentionBlock, ...]
    predicting: Tensor
    labels: Tensor


def pack(rows: Sequence[EncodedRow], layout: HeadLayout, *, multiple: int = 1) -> PackedBatch:
    """Pack rows for a model with the given heads, and fill up to a `multiple` of tokens."""
    prefix = shared_prefix(rows)
    token_ids = list(rows[0].token_ids[:prefix])
    positions = list(range(prefix))
    predicting: list[int] = []
    labels: list[int] = []
    for row in rows:
        offset = len(token_ids) - prefix  # packed place of a row's token = offset + its place in the row
        predicting += [offset + place - 1 for place in row.label_places]
        labels += row.labels
        token_ids += row.token_ids[prefix:]
        positions += range(prefix, len(row.token_ids))
    own_lengths = [len(row.token_ids) - prefix for row in rows]
    blocks = [_block([prefix], 0, layout, first=0)] if prefix else []  # owns the tokens 0 … P
    blocks.append(_block(own_lengths, prefix, layout, first=prefix))
    spans = _spans(own_lengths, prefix)
    if filling := -len(token_ids) % multiple:
        # in a block of its own: as one more row it would be padded to the longest
        blocks.append(_block([filling], 0, layout, first=len(token_ids)))
        spans += (RowSpan(len(token_ids), filling, 0),)
        token_ids += [0] * filling
        positions += range(filling)
    return PackedBatch(
        token_ids=torch.tensor(token_ids),
        positions=torch.tensor(positions),
        spans=spans,
        blocks=tuple(blocks),
        predicting=torch.tensor(predicting),
        labels=torch.tensor(labels),
    )


def _spans(own_lengths: Sequence[int], prefix: int) -> tuple[RowSpan, ...]:
    spans, place = [RowSpan(0, prefix, 0)] if prefix else [], prefix
    for count in own_lengths:
        spans.append(RowSpan(place, count, prefix))
        place += count
    return tuple(spans)


def shared_prefix(rows: Sequence[EncodedRow]) -> int:
    """Return how many tokens all rows begin with, at least one token short of every first answer.

    The token before an answer predicts a label, so it must be every row's own.
    """
    if len(rows) < 2:
        return 0
    common = common_prefix_length([row.token_ids for row in rows])
    prefix = min(common, *(row.prompt_length - 1 for row in rows))
    return prefix if prefix >= SHORTEST_PREFIX else 0


def _block(lengths: Sequence[int], prefix: int, layout: HeadLayout, *, first: int) -> AttentionBlock:
    """Return the block of rows of the given lengths, packed from `first` on, which see `prefix` shared tokens."""
    rows, longest, groups = len(lengths), max(lengths), layout.key_value_heads
    end = first + sum(lengths)
    tokens = torch.zeros(rows, longest, dtype=torch.long)  # packed token of each query; token 0 stands in for padding
    real = torch.arange(longest) < torch.tensor(lengths)[:, None]
    tokens[real] = torch.arange(first, end)
    row_of, place_of = real.nonzero(as_tuple=True)

    head = torch.arange(layout.heads)
    group = torch.arange(groups)
    key_tokens = torch.cat([torch.arange(prefix).expand(rows, prefix), tokens], dim=1)[:, None]  # (R, 1, Lk)
    rotated, stacked = layout.heads + groups, layout.heads + 2 * groups
    key_head, value_head = layout.heads + group[:, None], rotated + group[:, None]
    return AttentionBlock(
        rows=rows,
        queries=longest,
        keys=prefix + longest,
        prefix=prefix,
        first=first,
        end=end,
        query_places=(tokens[:, None] * rotated + head[:, None]).flatten(),
        key_places=(key_tokens * rotated + key_head).flatten(),
        value_places=(key_tokens * stacked + value_head).flatten(),
        owned_queries=((row_of[:, None] * layout.heads + head) * longest + place_of[:, None]).flatten(),
        owned_keys=((row_of[:, None] * groups + group) * (prefix + longest) + prefix + place_of[:, None]).flatten(),
        mask=_causal(longest, prefix).repeat(1, layout.group, 1),
    )


def _causal(queries: int, prefix: int) -> Tensor:
    """Return a mask (1, queries, prefix + queries): each query sees the prefix, earlier queries and itself."""
    visible = torch.ones(queries, prefix + queries, dtype=torch.bool).tril_(diagonal=prefix)
    return torch.zeros(visible.shape).masked_fill_(~visible, float("-inf"))[None]

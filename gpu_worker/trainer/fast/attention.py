"""Grouped-query attention over one block of packed tokens, forward and backward.

Heads that share a key/value head are folded into the query axis, so keys and values are never repeated.
Shapes: T packed tokens; H query heads in K groups of G = H / K; m head size; R, Lq, Lk, P as in AttentionBlock.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gpu_worker.trainer.fast.packing import AttentionBlock


@dataclass(frozen=True)
class SavedAttention:
    """What the backward pass needs: queries (R·K, G·Lq, m); keys, values (R·K, Lk, m); weights (R·K, G·Lq, Lk)."""

    queries: Tensor
    keys: Tensor
    values: Tensor
    weights: Tensor


def attend(queries: Tensor, keys: Tensor, values: Tensor, block: AttentionBlock) -> tuple[Tensor, SavedAttention]:
    """Return softmax(Q Kᵀ / √m + mask) V for the tokens the block owns.

    Shapes: queries (T, H, m) and keys (T, K, m), rotated; values (T, K, m); result (end − first, H·m).
    """
    groups = keys.shape[1]
    q = _fold(queries.index_select(0, block.query_tokens), block, groups)
    k = _by_group(keys.index_select(0, block.key_tokens), block)
    v = _by_group(values.index_select(0, block.key_tokens), block)
    mask = block.mask.repeat(1, q.shape[1] // block.queries, 1)
    scores = torch.baddbmm(mask, q, k.transpose(1, 2), alpha=q.shape[2] ** -0.5)
    weights = torch.softmax(scores, dim=-1)
    out = _unfold(torch.bmm(weights, v), block, groups)
    return out.index_select(0, block.slots).flatten(1), SavedAttention(q, k, v, weights)


def attend_backward(
    d_out: Tensor, saved: SavedAttention, block: AttentionBlock, d_queries: Tensor, d_keys: Tensor, d_values: Tensor
) -> None:
    """Write the gradients of the tokens the block owns, and add those of the prefix it looks at.

    d_V = Wᵀ d_O; d_W = d_O Vᵀ; d_S = W∘(d_W − rowsum(W∘d_W)); d_Q = d_S K / √m; d_K = d_Sᵀ Q / √m.
    Shapes: d_out (end − first, H·m); d_queries (T, H, m); d_keys, d_values (T, K, m). The block that owns the prefix
    must come first.
    """
    groups, size = d_keys.shape[1:]
    padded = d_out.new_zeros(block.rows * block.queries, d_out.shape[1]).index_copy_(0, block.slots, d_out)
    d_o = _fold(padded.view(len(padded), -1, size), block, groups)
    d_v = torch.bmm(saved.weights.transpose(1, 2), d_o)
    d_w = torch.bmm(d_o, saved.values.transpose(1, 2))
    d_s = torch.ops.aten._softmax_backward_data(d_w, saved.weights, -1, torch.float32).mul_(size**-0.5)
    d_q = _unfold(torch.bmm(d_s, saved.keys), block, groups)
    d_queries[block.first : block.end] = d_q.index_select(0, block.slots)
    _return_to_tokens(torch.bmm(d_s.transpose(1, 2), saved.queries), block, d_keys)
    _return_to_tokens(d_v, block, d_values)


def _fold(heads: Tensor, block: AttentionBlock, groups: int) -> Tensor:
    """(R·Lq, H, m) → (R·K, G·Lq, m)."""
    _places, count, size = heads.shape
    by_row = heads.view(block.rows, block.queries, groups, count // groups, size).permute(0, 2, 3, 1, 4)
    return by_row.reshape(block.rows * groups, -1, size)


def _unfold(folded: Tensor, block: AttentionBlock, groups: int) -> Tensor:
    """(R·K, G·Lq, m) → (R·Lq, H, m)."""
    size = folded.shape[2]
    by_row = folded.view(block.rows, groups, -1, block.queries, size).permute(0, 3, 1, 2, 4)
    return by_row.reshape(block.rows * block.queries, -1, size)


def _by_group(tokens: Tensor, block: AttentionBlock) -> Tensor:
    """(R·Lk, K, m) → (R·K, Lk, m)."""
    groups, size = tokens.shape[1:]
    return tokens.view(block.rows, block.keys, groups, size).transpose(1, 2).reshape(-1, block.keys, size)


def _return_to_tokens(d_by_group: Tensor, block: AttentionBlock, d_tokens: Tensor) -> None:
    """Bring (R·K, Lk, m) back to packed tokens (T, K, m): own words are written, the shared prefix is summed up."""
    groups, size = d_tokens.shape[1:]
    by_row = d_by_group.view(block.rows, groups, block.keys, size).transpose(1, 2)
    own = by_row[:, block.prefix :].reshape(-1, groups, size)
    d_tokens[block.first : block.end] = own.index_select(0, block.slots)
    if block.prefix:
        d_tokens[: block.prefix] += by_row[:, : block.prefix].sum(dim=0)

"""Grouped-query attention over one block of packed tokens, forward and backward.

Shapes: T packed tokens; H query heads in K groups of G = H / K; m head size; R, Lq, Lk, P, n as in AttentionBlock.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gpu_worker.trainer.fast.kernels import Kernels
from gpu_worker.trainer.fast.packing import AttentionBlock

# Up to so many keys, keeping the attention weights for the backward pass is faster than making them again. Beyond,
# torch's flash kernel wins, and its memory grows with the length instead of its square. Measured on two AVX-512 cores.
MOST_KEPT_KEYS = 160


@dataclass(frozen=True)
class SavedAttention:
    """What the backward pass needs: folded queries (R·K, G·Lq, m), keys and values (R·K, Lk, m).

    And either the attention weights (R·K, G·Lq, Lk), or the output with the log of each query's softmax sum.
    """

    queries: Tensor
    keys: Tensor
    values: Tensor
    weights: Tensor | None
    out: Tensor | None
    log_sums: Tensor | None


def attend(rotated: Tensor, stacked: Tensor, block: AttentionBlock) -> tuple[Tensor, SavedAttention]:
    """Return softmax(Q Kᵀ / √m + mask) V for the tokens the block owns.

    Shapes: rotated (T, H + K, m), queries' heads then keys'; stacked (T, H + 2K, m), of which values are the last K;
    result (n, H·m).
    """
    size = rotated.shape[2]
    groups = stacked.shape[1] - rotated.shape[1]
    rows = rotated.view(-1, size)
    queries = rows.index_select(0, block.query_places).view(block.rows * groups, -1, size)
    keys = rows.index_select(0, block.key_places).view(block.rows * groups, -1, size)
    values = stacked.view(-1, size).index_select(0, block.value_places).view(block.rows * groups, -1, size)
    mix = _mix if block.keys <= MOST_KEPT_KEYS else _mix_flash
    out, saved = mix(queries, keys, values, block.mask)
    return out.view(-1, size).index_select(0, block.owned_queries).view(block.end - block.first, -1), saved


def attend_backward(
    d_out: Tensor,
    saved: SavedAttention,
    block: AttentionBlock,
    d_rotated: Tensor,
    d_stacked: Tensor,
    kernels: Kernels,
) -> None:
    """Write the gradients of the tokens the block owns, and add those of the prefix it looks at.

    Shapes: d_out (n, H·m); d_rotated (T, H + K, m); d_stacked (T, H + 2K, m), of which the values' part is written.
    The block that owns the prefix must come first.
    """
    size = d_rotated.shape[2]
    rotating, heads = d_rotated.shape[1], d_out.shape[1] // size
    # places of padding stay zero, so padding sends no gradient to anyone
    folded = torch.zeros(saved.queries.shape).view(-1, size).index_copy_(0, block.owned_queries, d_out.view(-1, size))
    mix_backward = _mix_backward if saved.weights is not None else _mix_flash_backward
    d_queries, d_keys, d_values = mix_backward(folded.view(saved.queries.shape), saved, block.mask, kernels)
    owned = d_queries.view(-1, size).index_select(0, block.owned_queries)
    d_rotated[block.first : block.end, :heads] = owned.view(-1, heads, size)
    _return_to_tokens(d_keys, block, d_rotated[:, heads:])
    _return_to_tokens(d_values, block, d_stacked[:, rotating:])


def _return_to_tokens(d_folded: Tensor, block: AttentionBlock, d_tokens: Tensor) -> None:
    """Bring (R·K, Lk, m) back to packed tokens (T, K, m): own words are written, the shared prefix is summed up."""
    groups, size = d_tokens.shape[1:]
    own = d_folded.view(-1, size).index_select(0, block.owned_keys)
    d_tokens[block.first : block.end] = own.view(-1, groups, size)
    if block.prefix:
        of_prefix = d_folded.view(block.rows, groups, block.keys, size)[:, :, : block.prefix].sum(dim=0)
        d_tokens[: block.prefix] += of_prefix.transpose(0, 1)


def _mix(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> tuple[Tensor, SavedAttention]:
    scores = torch.baddbmm(mask, queries, keys.transpose(1, 2), alpha=queries.shape[2] ** -0.5)
    weights = torch.softmax(scores, dim=-1)
    return torch.bmm(weights, values), SavedAttention(queries, keys, values, weights, None, None)


def _mix_backward(
    d_out: Tensor, saved: SavedAttention, _mask: Tensor, kernels: Kernels
) -> tuple[Tensor, Tensor, Tensor]:
    """With W the weights and S the scores: d_V = Wᵀ d_O; d_W = d_O Vᵀ; d_S = W∘(d_W − rowsum(W∘d_W)).

    Then d_Q = d_S K / √m and d_K = d_Sᵀ Q / √m.
    """
    weights = saved.weights
    assert weights is not None
    d_values = torch.bmm(weights.transpose(1, 2), d_out)
    d_weights = torch.bmm(d_out, saved.values.transpose(1, 2))
    d_scores = kernels.softmax_backward(d_weights, weights, saved.queries.shape[2] ** -0.5)
    return torch.bmm(d_scores, saved.keys), torch.bmm(d_scores.transpose(1, 2), saved.queries), d_values


def _mix_flash(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> tuple[Tensor, SavedAttention]:
    """The same without ever holding all weights: Dao et al. 2022, arXiv:2205.14135."""
    out, log_sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        queries[:, None], keys[:, None], values[:, None], 0.0, False, attn_mask=mask[None]
    )
    return out.contiguous(), SavedAttention(queries, keys, values, None, out, log_sums)


def _mix_flash_backward(
    d_out: Tensor, saved: SavedAttention, mask: Tensor, _kernels: Kernels
) -> tuple[Tensor, Tensor, Tensor]:
    d_queries, d_keys, d_values = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        d_out[:, None],
        saved.queries[:, None],
        saved.keys[:, None],
        saved.values[:, None],
        saved.out,
        saved.log_sums,
        0.0,
        False,
        attn_mask=mask[None],
    )
    return d_queries.contiguous(), d_keys.contiguous(), d_values.contiguous()

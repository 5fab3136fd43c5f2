"""Attention of a step's tokens over the blocked key/value cache: the compiled kernel's, and in plain torch."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from gpu_worker.engine.block_pool import BLOCK_SIZE
from gpu_worker.engine.kernels import Kernels, NativeKernels
from gpu_worker.engine.model_shape import ModelShape
from gpu_worker.engine.step_layout import DirectRows, LongRow, ShortRows, StepLayout


class CachedAttention:
    """Attention in every layer, where keys and values of all tokens are in the cache already."""

    def __init__(self, shape: ModelShape, kernels: Kernels, cache: Sequence[Tensor]) -> None:
        """`cache`, of each layer: a row is one token, its keys, then its values."""
        self._shape = shape
        self._kernels = kernels
        self._cache = cache

    def of(self, layout: StepLayout, layer: int, qkv: Tensor) -> Tensor:
        """Return every token's attention over its own sequence. Shapes: qkv (N, qkv_width); result (N, query_width)."""
        queries = qkv[:, : self._shape.query_width].view(len(qkv), self._shape.heads, self._shape.head_dim)
        parts = []
        if isinstance(layout.short, DirectRows):
            assert isinstance(self._kernels, NativeKernels)
            parts.append(self._kernels.attend(qkv, layout.short, self._cache[layer], self._shape.windows[layer]))
        elif layout.short is not None:
            parts.append(self._short(layout.short, layer, queries[: layout.short.tokens]))
        parts += [self._long(row, layer, queries[row.start : row.end]) for row in layout.long]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _read(self, layer: int, blocks: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        """Gather keys and values of `rows` sequences. Shapes: result two of (rows, kv_heads, T, head_dim)."""
        cache = self._cache[layer]
        gathered = cache.view(-1, BLOCK_SIZE * cache.shape[1]).index_select(0, blocks)
        split = gathered.view(rows, -1, 2, self._shape.kv_heads, self._shape.head_dim)
        return split[:, :, 0].transpose(1, 2), split[:, :, 1].transpose(1, 2)

    def _short(self, short: ShortRows, layer: int, queries: Tensor) -> Tensor:
        """Attention of all short rows in one call; the query heads of one key/value head are folded into rows."""
        shape, (rows, width) = self._shape, (short.rows, short.width)
        groups = shape.heads // shape.kv_heads
        keys, values = self._read(layer, short.blocks, rows)
        if short.query_index is not None:
            queries = queries[short.query_index]
        folded = queries.reshape(rows, width, shape.kv_heads, groups, shape.head_dim).permute(0, 2, 3, 1, 4)
        folded = folded.reshape(rows, shape.kv_heads, groups * width, shape.head_dim)
        mask = short.near_mask if shape.windows[layer] else short.mask
        if shape.score_cap is not None:
            out = _capped_attention(folded, keys, values, mask, shape.score_cap)
        else:
            out = functional.scaled_dot_product_attention(folded, keys, values, attn_mask=mask)
        out = out.view(rows, shape.kv_heads, groups, width, shape.head_dim).permute(0, 3, 1, 2, 4)
        out = out.reshape(rows * width, shape.query_width)
        return out if short.answer_index is None else out[short.answer_index]

    def _long(self, row: LongRow, layer: int, queries: Tensor) -> Tensor:
        """Attention of a piece of a prompt over everything before it and, causally, itself."""
        keys, values = (part[:, :, : row.length] for part in self._read(layer, row.blocks, 1))
        asking = queries.transpose(0, 1).unsqueeze(0)
        mask = row.near_mask if self._shape.windows[layer] else row.mask
        if self._shape.score_cap is not None:
            out = _capped_attention(asking, keys, values, mask, self._shape.score_cap)
        else:
            out = functional.scaled_dot_product_attention(
                asking,
                keys,
                values,
                attn_mask=mask,
                is_causal=mask is None,
                enable_gqa=self._shape.heads != self._shape.kv_heads,
            )
        return out.squeeze(0).transpose(0, 1).reshape(-1, self._shape.query_width)


def capped(x: Tensor, cap: float | None) -> Tensor:
    """Return numbers that stay below `cap`: cap · tanh(x / cap). Source: Gemma 2, arXiv:2408.00118, section 2."""
    return x if cap is None else (x / cap).tanh_().mul_(cap)


def _capped_attention(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, cap: float) -> Tensor:
    """Return attention whose scores are capped; without a mask it is causal, from the first token on.

    Shapes: queries, result (rows, heads, N, head_dim); keys, values (rows, kv_heads, T, head_dim).
    """
    groups = queries.shape[1] // keys.shape[1]
    keys, values = (one.repeat_interleave(groups, dim=1) for one in (keys, values))
    scores = capped(queries @ keys.transpose(-1, -2) * queries.shape[-1] ** -0.5, cap)
    if mask is None:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu_(1)
        scores = scores.masked_fill_(future, float("-inf"))
    else:
        scores = scores + mask
    return scores.float().softmax(-1).to(values.dtype) @ values

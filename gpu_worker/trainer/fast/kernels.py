"""What stands between the products of a decoder layer, forward and backward, on packed tokens.

`Kernels` is plain torch, one operation after the other; `native.py` has the same in one compiled pass each.
Shapes: T packed tokens, d hidden size, n width of the feed-forward layer. `d_x` is the gradient of the loss by x.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from gpu_worker.trainer.fast.packing import RowSpan
from gpu_worker.trainer.fast.products import Activations, Product


@dataclass(frozen=True)
class LowRank:
    """The low-rank part of some columns of a product: low[:, ranks] · up, where up is (r, columns)."""

    columns: slice
    ranks: slice
    up: Tensor


@dataclass(frozen=True)
class TrainedLowRank(LowRank):
    """The same of an adapter while it is trained: `up_gradient` (r, columns) is added to."""

    up_gradient: Tensor


# (the frozen product, low-rank activations (T, Σr) or None, what to add (T, columns) or None) → the whole result
Finish = Callable[[Product, Tensor | None, Tensor | None], Tensor]
# (d_y (T, columns), low-rank activations (T, Σr)) → the gradient by what those were before they were scaled, (T, Σr)
LowRankBackward = Callable[[Tensor, Tensor], Tensor]


class FusedAttention(Protocol):
    """Attention of one micro-batch's rows in one pass, forward and backward, the same for all layers.

    Shapes: stacked (T, (H + 2K)·m), rotated queries and keys, and values; out (T, H·m). The backward pass wants the
    attention weights back that the forward pass returned.
    """

    def forward(self, stacked: Tensor) -> tuple[Tensor, Tensor]:
        """Return out and the attention weights."""
        ...

    def backward(self, d_out: Tensor, stacked: Tensor, weights: Tensor) -> Tensor:
        """Return the gradient by stacked."""
        ...


class Kernels:
    """Operation by operation, anywhere; the arithmetic of reference."""

    def __init__(self, *, gelu: bool = False) -> None:
        """`gelu`: gates are opened by GELU (tanh) instead of SiLU."""
        self.gelu = gelu

    def attention(
        self, spans: Sequence[RowSpan], *, heads: int, key_value_heads: int, head_size: int
    ) -> FusedAttention | None:
        """Return attention in one pass over rows, None where it has to go operation by operation."""
        return None

    # `smoothing`, here and below: see `FrozenProduct`, for ways that round what they return.

    def activations(self, x: Tensor, smoothing: Tensor | None = None) -> Activations:
        """Return x (T, n) in the form that a product reads; not every way of computing has to add to it."""
        return Activations(x)

    def finisher(self, parts: Sequence[LowRank], columns: int) -> Finish:
        """Return a function that makes product + low-rank parts + residual out of a frozen product, in place."""

        def finish(product: Product, low: Tensor | None, residual: Tensor | None) -> Tensor:
            y = product.values if product.scales is None else product.values.mul_(product.scales)
            if low is not None:
                for part in parts:
                    y[:, part.columns].addmm_(low[:, part.ranks], part.up)
            return y if residual is None else y.add_(residual)

        return finish

    def low_rank_backward(self, parts: Sequence[TrainedLowRank], scale: float) -> LowRankBackward:
        """Return a function that adds the parts' gradients lowᵀ d_y and returns scale · d_y upᵀ."""

        def backward(d_y: Tensor, low: Tensor) -> Tensor:
            d_low = torch.empty_like(low)
            for part in parts:
                d_part = d_y[:, part.columns]
                part.up_gradient.addmm_(low[:, part.ranks].t(), d_part)
                d_low[:, part.ranks] = torch.mm(d_part, part.up.t())
            return d_low.mul_(scale)

        return backward

    def cross_entropy(self, logits: Tensor, labels: Tensor, *, gradient: bool) -> float:
        """Return Σ −log softmax(x)[label]; with `gradient` turn the logits into softmax(x) − onehot(label), in place.

        Shapes: logits (L, vocabulary); labels (L,).
        """
        label_logits = logits.gather(1, labels[:, None])[:, 0]
        highest = logits.amax(dim=1)
        probabilities = torch.softmax(logits, dim=1, out=logits)
        # log Σ exp(logits), from the likeliest token: its probability is at least 1 / vocabulary, never 0
        log_sum = highest - probabilities.amax(dim=1).log_()
        if gradient:
            probabilities[torch.arange(len(labels)), labels] -= 1.0
        return float((log_sum - label_logits).sum())

    def rms_norm(
        self, hidden: Tensor, weight: Tensor, epsilon: float, smoothing: Tensor | None = None
    ) -> tuple[Activations, Tensor]:
        """Return x = h / rms(h) · w, and r = 1 / rms(h), where rms(h) = √(mean(h²) + ε) per token.

        Shapes: hidden, x (T, d); weight (d,); r (T, 1). Source: Zhang and Sennrich 2019, arXiv:1910.07467.
        """
        norm = torch.linalg.vector_norm(hidden, dim=1, keepdim=True)
        inverse = (norm.square_().div_(hidden.shape[1]).add_(epsilon)).rsqrt_()
        return Activations((hidden * inverse).mul_(weight)), inverse

    def rms_norm_backward(
        self,
        d_normed: Tensor,
        hidden: Tensor,
        inverse: Tensor,
        normed: Tensor,
        weight: Tensor,
        residual: Tensor | None,
    ) -> Activations:
        """Return d_h = r · w∘d_x − h · r² · mean(d_x∘x) + residual: the second term is what the change of rms(h) does.

        Shapes: d_normed, hidden, normed, residual, result (T, d); inverse (T, 1); weight (d,).
        """
        pull = (d_normed * normed).mean(dim=1, keepdim=True).mul_(inverse).mul_(inverse)
        d_hidden = (d_normed * weight).mul_(inverse).addcmul_(hidden, pull, value=-1)
        return Activations(d_hidden if residual is None else d_hidden.add_(residual))

    def rotate(
        self, heads: Tensor, cosine: Tensor, sine: Tensor, out: Tensor | None = None, *, back: bool = False
    ) -> Tensor:
        """Rotate each pair (a, b) of a head's two halves by its token's angle: (a·cos − b·sin, b·cos + a·sin).

        `back`: by the opposite angle, which is the backward pass. Shapes: heads, result, out (T, heads, 2·m), whose
        rows may lie apart; cosine, sine (T, 1, m). Source: Su et al. 2021, arXiv:2104.09864.
        """
        first, second = heads.chunk(2, dim=-1)
        rotated = torch.empty(heads.shape) if out is None else out
        half, sign = cosine.shape[-1], -1 if back else 1
        torch.mul(first, cosine, out=rotated[..., :half]).addcmul_(second, sine, value=-sign)
        torch.mul(second, cosine, out=rotated[..., half:]).addcmul_(first, sine, value=sign)
        return rotated

    def gated(self, gate_up: Tensor, smoothing: Tensor | None = None) -> Activations:
        """Return silu(gate)∘up, or gelu(gate)∘up, from gate and up side by side.

        Shapes: gate_up (T, 2n); result (T, n). Source: Shazeer 2020, arXiv:2002.05202.
        """
        gate, up = gate_up.chunk(2, dim=1)
        return Activations(self._opened(gate).mul_(up))

    def _opened(self, gate: Tensor) -> Tensor:
        return functional.gelu(gate, approximate="tanh") if self.gelu else functional.silu(gate)

    def gated_backward(self, d_out: Tensor, gate_up: Tensor) -> tuple[Activations, Tensor]:
        """Return d_gate = d∘up∘silu′(gate) beside d_up = d∘silu(gate), and what `gated` returned, made once more.

        Shapes: d_out (T, n); results (T, 2n), (T, n).
        """
        gate, up = gate_up.chunk(2, dim=1)
        result = torch.empty_like(gate_up)
        d_gate, d_up = result.chunk(2, dim=1)
        opened = self._opened(gate)
        torch.mul(d_out, opened, out=d_up)
        if self.gelu:
            torch.ops.aten.gelu_backward.grad_input(d_out * up, gate, approximate="tanh", grad_input=d_gate)
        else:
            torch.ops.aten.silu_backward.grad_input(d_out * up, gate, grad_input=d_gate)
        return Activations(result), opened.mul_(up)

    def softmax_backward(self, d_weights: Tensor, weights: Tensor, factor: float) -> Tensor:
        """Return factor · W∘(d_W − rowsum(W∘d_W)), the gradient of the scores. Shapes: all (…, queries, keys)."""
        d_scores: Tensor = torch.ops.aten._softmax_backward_data(d_weights, weights, -1, torch.float32)
        return d_scores.mul_(factor)

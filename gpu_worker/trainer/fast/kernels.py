"""Element-wise parts of a decoder layer, forward and backward, on packed tokens.

Shapes: T packed tokens, d hidden size, n width of the feed-forward layer. `d_x` is the gradient of the loss by x.
"""

import torch
from torch import Tensor
from torch.nn import functional


def rms_norm(hidden: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Return x = h / rms(h) · w, and r = 1 / rms(h), where rms(h) = √(mean(h²) + ε) per token.

    Shapes: hidden, x (T, d); weight (d,); r (T, 1). Source: Zhang and Sennrich 2019, arXiv:1910.07467.
    """
    norm = torch.linalg.vector_norm(hidden, dim=1, keepdim=True)
    inverse = (norm.square_().div_(hidden.shape[1]).add_(epsilon)).rsqrt_()
    return (hidden * inverse).mul_(weight), inverse


def rms_norm_backward(d_normed: Tensor, hidden: Tensor, inverse: Tensor, normed: Tensor, weight: Tensor) -> Tensor:
    """Return d_h = r · w∘d_x − h · r² · mean(d_x∘x): the second term is what the change of rms(h) does.

    Shapes: d_normed, hidden, normed, result (T, d); inverse (T, 1); weight (d,).
    """
    pull = (d_normed * normed).mean(dim=1, keepdim=True).mul_(inverse).mul_(inverse)
    return (d_normed * weight).mul_(inverse).addcmul_(hidden, pull, value=-1)


def rotate(heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate each pair (a, b) of a head's two halves by its token's angle: (a·cos − b·sin, b·cos + a·sin).

    The backward pass is the rotation by the opposite angle: call it with −sine.
    Shapes: heads, result (T, heads, 2·m); cosine, sine (T, 1, m). Source: Su et al. 2021, arXiv:2104.09864.
    """
    first, second = heads.chunk(2, dim=-1)
    rotated = torch.empty(heads.shape)
    half = cosine.shape[-1]
    torch.mul(first, cosine, out=rotated[..., :half]).addcmul_(second, sine, value=-1)
    torch.mul(second, cosine, out=rotated[..., half:]).addcmul_(first, sine)
    return rotated


def gated(gate_up: Tensor) -> Tensor:
    """Return silu(gate)∘up from gate and up side by side. Shapes: gate_up (T, 2n); result (T, n).

    Source: Shazeer 2020, arXiv:2002.05202.
    """
    gate, up = gate_up.chunk(2, dim=1)
    return functional.silu(gate).mul_(up)


def gated_again(gate_up: Tensor) -> tuple[Tensor, Tensor]:
    """Return silu(gate)∘up and silu(gate), for the backward pass, which needs both. Shapes: (T, n) each."""
    gate, up = gate_up.chunk(2, dim=1)
    opened = functional.silu(gate)
    return opened * up, opened


def gated_backward(d_out: Tensor, gate_up: Tensor, opened: Tensor) -> Tensor:
    """Return d_gate = d∘up∘silu′(gate) beside d_up = d∘silu(gate). Shapes: d_out, opened (T, n); result (T, 2n)."""
    gate, up = gate_up.chunk(2, dim=1)
    result = torch.empty_like(gate_up)
    d_gate, d_up = result.chunk(2, dim=1)
    torch.mul(d_out, opened, out=d_up)
    torch.ops.aten.silu_backward.grad_input(d_out * up, gate, grad_input=d_gate)
    return result

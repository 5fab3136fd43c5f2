"""A frozen product with LoRA beside it, for several projections of the same input at once."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gpu_worker.trainer.fast.kernels import Kernels, LowRank, TrainedLowRank
from gpu_worker.trainer.fast.products import Activations, FrozenProduct


@dataclass(frozen=True)
class StackedAdapter:
    """The adapters of a stack: `down` is their A matrices one above the other, (Σr, inputs); scale is alpha / r.

    `parts`: Bᵀ of each, (r, outputs): this way round their products are twice as fast.
    """

    down: Tensor
    down_gradient: Tensor
    parts: tuple[TrainedLowRank, ...]
    scale: float


class AdaptedProjection:
    """y = x Wᵀ + b + s · (x Aᵀ) Bᵀ, W and b frozen (see products.py), A and B of each projection its own.

    Shapes: x (T, inputs); y (T, Σ outputs). Source: Hu et al. 2021, arXiv:2106.09685, section 4.1.
    """

    def __init__(self, frozen: FrozenProduct, adapter: StackedAdapter | None, kernels: Kernels) -> None:
        """`adapter` is None where no projection of the stack is adapted."""
        self._frozen = frozen
        self._adapter = adapter
        self.smoothing = frozen.smoothing
        parts = adapter.parts if adapter else ()
        self._finish = kernels.finisher(parts, frozen.outputs)
        down = [LowRank(slice(0, frozen.inputs), slice(0, len(adapter.down)), adapter.down)] if adapter else []
        self._finish_backward = kernels.finisher(down, frozen.inputs)
        self._low_rank_backward = kernels.low_rank_backward(parts, adapter.scale if adapter else 0.0)

    def forward(self, x: Activations, residual: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return y + residual and the low-rank activations s · x Aᵀ (T, Σr), which the backward pass wants back."""
        low = None
        if self._adapter is not None:
            low = torch.mm(x.exact, self._adapter.down.t()).mul_(self._adapter.scale)
        return self._finish(self._frozen.forward(x), low, residual), low

    def backward(self, d_y: Activations, low: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Add the gradients of B; return d_x = d_y W + d_low A, (T, inputs), and d_low, which those of A want.

        d_Bᵀ = lowᵀ d_y; d_low (T, Σr) = s · d_y B, the gradient by x Aᵀ.
        """
        d_low = self.add_up_gradients(d_y.exact, low)
        return self._finish_backward(self._frozen.backward(d_y), d_low, None), d_low

    def add_up_gradients(self, d_y: Tensor, low: Tensor | None) -> Tensor | None:
        """Add the gradients of B alone and return d_low."""
        return None if low is None else self._low_rank_backward(d_y, low)

    def add_down_gradients(self, d_low: Tensor | None, x: Tensor) -> None:
        """Add those of A: d_A = d_lowᵀ x, with x (T, inputs)."""
        if self._adapter is not None and d_low is not None:
            self._adapter.down_gradient.addmm_(d_low.t(), x)

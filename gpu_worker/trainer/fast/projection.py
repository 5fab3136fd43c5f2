"""A frozen product with LoRA beside it, for several projections of the same input at once."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gpu_worker.trainer.fast.kernels import Kernels, LowRank
from gpu_worker.trainer.fast.products import Activations, FrozenProduct


@dataclass(frozen=True)
class AdapterPart:
    """The adapter of one projection in a stack, as views into the flat buffers.

    `columns`: its outputs in the stack; `ranks`: its share of the stacked low-rank activations.
    `up`, `up_gradient`: Bᵀ and its gradient, (r, outputs): this way round their products are twice as fast.
    """

    columns: slice
    ranks: slice
    up: Tensor
    up_gradient: Tensor


@dataclass(frozen=True)
class StackedAdapter:
    """The adapters of a stack: `down` is their A matrices one above the other, (Σr, inputs); scale is alpha / r."""

    down: Tensor
    down_gradient: Tensor
    parts: tuple[AdapterPart, ...]
    scale: float


class AdaptedProjection:
    """y = x Wᵀ + b + s · (x Aᵀ) Bᵀ, W and b frozen (see products.py), A and B of each projection its own.

    Shapes: x (T, inputs); y (T, Σ outputs). Source: Hu et al. 2021, arXiv:2106.09685, section 4.1.
    """

    def __init__(self, frozen: FrozenProduct, adapter: StackedAdapter | None, kernels: Kernels) -> None:
        """`adapter` is None where no projection of the stack is adapted."""
        self._frozen = frozen
        self._adapter = adapter
        parts = adapter.parts if adapter else ()
        self._finish = kernels.finisher([LowRank(part.columns, part.ranks, part.up) for part in parts], frozen.outputs)
        down = [LowRank(slice(0, frozen.inputs), slice(0, len(adapter.down)), adapter.down)] if adapter else []
        self._finish_backward = kernels.finisher(down, frozen.inputs)

    def forward(self, x: Activations, residual: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return y + residual and the low-rank activations s · x Aᵀ (T, Σr), which the backward pass wants back."""
        low = None
        if self._adapter is not None:
            low = torch.mm(x.exact, self._adapter.down.t()).mul_(self._adapter.scale)
        return self._finish(self._frozen.forward(x), low, residual), low

    def add_gradients(self, d_y: Tensor, x: Tensor, low: Tensor | None) -> Tensor | None:
        """Add the adapters' gradients and return the gradient by s-scaled x Aᵀ, (T, Σr).

        d_Bᵀ = lowᵀ d_y; d_low = s · d_y B; d_A = d_lowᵀ x.
        """
        if self._adapter is None or low is None:
            return None
        d_low = torch.empty_like(low)
        for part in self._adapter.parts:
            d_part = d_y[:, part.columns]
            part.up_gradient.addmm_(low[:, part.ranks].t(), d_part)
            d_low[:, part.ranks] = torch.mm(d_part, part.up.t())
        d_low.mul_(self._adapter.scale)
        self._adapter.down_gradient.addmm_(d_low.t(), x)
        return d_low

    def backward(self, d_y: Activations, x: Tensor, low: Tensor | None) -> Tensor:
        """Add the adapters' gradients and return d_x = d_y W + d_low A, (T, inputs)."""
        d_low = self.add_gradients(d_y.exact, x, low)
        return self._finish_backward(self._frozen.backward(d_y), d_low, None)

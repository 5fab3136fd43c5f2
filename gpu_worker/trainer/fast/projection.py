"""A frozen product with LoRA beside it, for several projections of the same input at once."""

from dataclasses import dataclass

import torch
from torch import Tensor

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

    def __init__(self, frozen: FrozenProduct, adapter: StackedAdapter | None) -> None:
        """`adapter` is None where no projection of the stack is adapted."""
        self._frozen = frozen
        self._adapter = adapter

    def forward(self, x: Activations) -> tuple[Tensor, Tensor | None]:
        """Return y and the low-rank activations s · x Aᵀ (T, Σr), which the backward pass wants back."""
        y = self._frozen.forward(x)
        if self._adapter is None:
            return y, None
        low = torch.mm(x.exact, self._adapter.down.t()).mul_(self._adapter.scale)
        for part in self._adapter.parts:
            y[:, part.columns].addmm_(low[:, part.ranks], part.up)
        return y, low

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
        d_x = self._frozen.backward(d_y)
        if self._adapter is not None and d_low is not None:
            d_x.addmm_(d_low, self._adapter.down)
        return d_x

"""Products with frozen weights, forward and backward: exact, or in 8-bit arithmetic.

Shapes: T packed tokens; weight (outputs, inputs); forward (T, inputs) → (T, outputs), backward the other way.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gpu_worker.trainer.fast.weights import FrozenProjection

ZERO_POINT = 128  # what stands for 0 in an unsigned byte; signed activations fall to a reference kernel, seconds a call
LARGEST = 127.0
LEAST_PEAK = 1e-20  # a row of zeros still needs a scale


@dataclass(frozen=True)
class Quantised:
    """Rows in 8 bits: a number is scale · (value − 128). Shapes: values (T, n) uint8; scales (T, 1).

    Each row has a scale of its own, so no row changes what is computed for another.
    """

    values: Tensor
    scales: Tensor


@dataclass(frozen=True)
class Activations:
    """What a product reads: the exact numbers, and in 8-bit arithmetic the same once more in 8 bits."""

    exact: Tensor
    quantised: Quantised | None = None


@dataclass(frozen=True)
class Product:
    """A result whose rows still want to be multiplied by `scales` (T, 1), if there are any."""

    values: Tensor
    scales: Tensor | None = None


class FrozenProduct(Protocol):
    """A product with weights that are not trained; `inputs` and `outputs` are its sizes."""

    inputs: int
    outputs: int

    def forward(self, x: Activations) -> Product:
        """Return x Wᵀ + b, (T, outputs)."""
        ...

    def backward(self, d_y: Activations) -> Product:
        """Return d_y W, (T, inputs)."""
        ...


class ExactProduct:
    """In float32."""

    def __init__(self, frozen: FrozenProjection) -> None:
        self.outputs, self.inputs = frozen.weight.shape
        self._weight = frozen.weight
        self._bias = frozen.bias

    def forward(self, x: Activations) -> Product:
        """Return x Wᵀ + b, (T, outputs)."""
        if self._bias is None:
            return Product(torch.mm(x.exact, self._weight.t()))
        return Product(torch.addmm(self._bias, x.exact, self._weight.t()))

    def backward(self, d_y: Activations) -> Product:
        """Return d_y W, (T, inputs)."""
        return Product(torch.mm(d_y.exact, self._weight))


class EightBitProduct:
    """In 8-bit integers with 32-bit sums, three to four times as fast as float32 on CPUs with VNNI.

    Both directions have their own copy of the weights, with one scale per result column, so that no float32 copy
    has to stay. Rounding is to the nearest; the error of one product is about one percent of its length.
    Source: the scheme of Dettmers et al. 2022, arXiv:2208.07339, section 2.1 (vector-wise), without outlier columns.
    """

    def __init__(self, frozen: FrozenProjection) -> None:
        self.outputs, self.inputs = frozen.weight.shape
        self._forward = _PackedWeight.of(frozen.weight)
        self._backward = _PackedWeight.of(frozen.weight.t().contiguous())
        self._bias = frozen.bias

    def forward(self, x: Activations) -> Product:
        """Return x Wᵀ + b, (T, outputs)."""
        y = self._forward.times(x.quantised or quantise(x.exact))
        if self._bias is None or y.scales is None:
            return y
        return Product(y.values.mul_(y.scales).add_(self._bias))

    def backward(self, d_y: Activations) -> Product:
        """Return d_y W, (T, inputs)."""
        return self._backward.times(d_y.quantised or quantise(d_y.exact))


def quantise(rows: Tensor) -> Quantised:
    """Return rows (T, n) in 8 bits, each scaled so that its largest number just fits."""
    scales = rows.abs().amax(dim=1, keepdim=True).clamp_min_(LEAST_PEAK).mul_(1 / LARGEST)
    return Quantised((rows / scales).round_().add_(ZERO_POINT).to(torch.uint8), scales)


@dataclass(frozen=True)
class _PackedWeight:
    """Signed bytes in the order in which the processor's kernel reads them, and a scale per result column."""

    packed: Tensor
    scales: Tensor
    zero_points: Tensor

    @classmethod
    def of(cls, weight: Tensor) -> "_PackedWeight":
        scales = weight.abs().amax(dim=1).clamp_min_(LEAST_PEAK).mul_(1 / LARGEST)
        rounded = (weight / scales[:, None]).round_().to(torch.int8)
        packed = torch.ops.onednn.qlinear_prepack(rounded, None)
        return cls(packed, scales, torch.zeros(len(weight), dtype=torch.int32))

    def times(self, x: Quantised) -> Product:
        """Return x Wᵀ (T, rows of the weight) in float32, its rows not yet scaled."""
        y: Tensor = torch.ops.onednn.qlinear_pointwise(
            x.values, 1.0, ZERO_POINT, self.packed, self.scales, self.zero_points,
            None, 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        return Product(y, x.scales)

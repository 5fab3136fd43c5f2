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
LEAST_SHARE = 0.01
"""Of the mean peak of columns: smaller ones are smoothed as if they were as large."""


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
    """A product with weights that are not trained; `inputs` and `outputs` are its sizes.

    `smoothing` (inputs,): what each column of forward's rows is multiplied by before they are rounded, if anything.
    """

    inputs: int
    outputs: int
    smoothing: Tensor | None

    def forward(self, x: Activations) -> Product:
        """Return x Wᵀ + b, (T, outputs)."""
        ...

    def backward(self, d_y: Activations) -> Product:
        """Return d_y W, (T, inputs)."""
        ...


class ExactProduct:
    """In float32."""

    smoothing: Tensor | None = None

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
    Source: the scheme of Dettmers et al. 2022, arXiv:2208.07339, section 2.1 (vector-wise), without outlier columns;
    these are made smaller instead, see `smoothing_of`.
    """

    def __init__(self, frozen: FrozenProjection, peaks: Tensor | None = None) -> None:
        """`peaks` (inputs,): the largest magnitudes of what forward's columns are like, if they are known."""
        self.outputs, self.inputs = frozen.weight.shape
        self.smoothing = None if peaks is None else smoothing_of(frozen.weight, peaks)
        weight = frozen.weight if self.smoothing is None else frozen.weight / self.smoothing
        self._forward = _PackedWeight.of(weight)
        self._backward = _PackedWeight.of(frozen.weight.t().contiguous())
        self._bias = frozen.bias

    def forward(self, x: Activations) -> Product:
        """Return x Wᵀ + b, (T, outputs)."""
        y = self._forward.times(x.quantised or quantise(x.exact, self.smoothing))
        if self._bias is None or y.scales is None:
            return y
        return Product(y.values.mul_(y.scales).add_(self._bias))

    def backward(self, d_y: Activations) -> Product:
        """Return d_y W, (T, inputs)."""
        return self._backward.times(d_y.quantised or quantise(d_y.exact))


def smoothing_of(weight: Tensor, peaks: Tensor) -> Tensor:
    """Return a factor for each column of activations, by which the weight's columns are divided.

    Activations have few columns that are far larger than all others, and weights have none: half of the difference
    is moved there, so that the step in which a row is rounded is small for all its columns.
    Shapes: weight (outputs, inputs); peaks, result (inputs,). Source: Xiao et al. 2022, arXiv:2211.10438, equation 4
    with α = 0.5.
    """
    # A column that was silent in the sample may speak later.
    difference = peaks.clamp_min(LEAST_SHARE * float(peaks.mean()) + LEAST_PEAK)
    difference = difference / weight.abs().amax(dim=0).clamp_min(LEAST_SHARE * float(weight.abs().max()) + LEAST_PEAK)
    logarithms = difference.log().mul_(-0.5)
    return (logarithms - logarithms.mean()).exp_()


def quantise(rows: Tensor, smoothing: Tensor | None = None) -> Quantised:
    """Return rows (T, n) in 8 bits, each scaled so that its largest number just fits.

    `smoothing` (n,): what the columns are multiplied by before; the numbers that are rounded are these products.
    """
    if smoothing is not None:
        rows = rows * smoothing
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

"""A frozen matrix and the two ways in which the decoder multiplies by it."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

LARGEST, ZERO_POINT = 127.0, 128
"""The kernel takes unsigned activations; signed ones fall to a reference implementation, thousands of times slower."""
LEAST_PEAK = 1e-12
PACKED_FOR_TOKENS = 8
"""Batch that the packed layout is chosen for: that of decoding several sequences. Larger ones gain as well."""


Quantise = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Rows -> the same in 8 bits around ZERO_POINT, and each one's scale. Shapes: (tokens, n); (tokens, n), (tokens, 1)."""


def quantised(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows in 8 bits, each with a scale of its own, in plain torch."""
    scales = x.abs().amax(dim=1, keepdim=True).clamp_min_(LEAST_PEAK).mul_(1 / LARGEST)
    return (x / scales).round_().add_(ZERO_POINT).to(torch.uint8), scales


class Linear(Protocol):
    """x -> x Wᵀ + b. Shapes: x (tokens, in), results (tokens, out)."""

    def __call__(self, x: Tensor) -> Tensor:
        """Return the product."""
        ...

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """Return residual + product. Shapes: residual (tokens, out)."""
        ...


class PlainLinear:
    """The matrix as it is published: (out, in)."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self._weight = weight
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        """Return the product."""
        return functional.linear(x, self._weight, self._bias)

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """Return residual + product."""
        if self._bias is not None:
            residual = residual + self._bias
        return torch.addmm(residual, x, self._weight.t())


class PackedLinear:
    """The matrix in oneDNN's blocked layout, float32 on the CPU: the same arithmetic, up to 1.9 times as fast.

    Plain matrices are rearranged inside every multiplication, which few tokens do not pay back.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, PACKED_FOR_TOKENS)
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        """Return the product."""
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        return out

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """Return residual + product."""
        out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, residual, self._weight, self._bias, "add")
        return out


class Int8Linear:
    """Weights and activations in 8 bits, sums in 32; about three times as fast as float32 on CPUs with VNNI.

    Weights have one scale per output, activations one per token. So a token's result depends on nothing but itself:
    integer sums are exact, whatever shares the step. Source: vector-wise quantisation, Dettmers et al. 2022,
    arXiv:2208.07339, section 2.1, without outlier columns.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None, quantise: Quantise = quantised) -> None:
        self._quantise = quantise
        self._scales = weight.abs().amax(dim=1).clamp_min_(LEAST_PEAK).mul_(1 / LARGEST)
        rounded = (weight / self._scales[:, None]).round_().to(torch.int8)
        self._weight = torch.ops.onednn.qlinear_prepack(rounded, None)
        self._zero_points = torch.zeros(len(weight), dtype=torch.int32)
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        """Return the product."""
        rounded, scales = self._quantise(x)
        out: Tensor = torch.ops.onednn.qlinear_pointwise(
            rounded, 1.0, ZERO_POINT, self._weight, self._scales, self._zero_points,
            None, 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        out.mul_(scales)
        return out if self._bias is None else out.add_(self._bias)

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """Return residual + product."""
        return self(x).add_(residual)


def make_linear(
    weight: Tensor, bias: Tensor | None = None, *, eight_bit: bool = False, quantise: Quantise = quantised
) -> Linear:
    """Return the fastest form of a matrix on its device, exact unless 8 bits are asked for.

    The given tensor need not be kept. 8 bits are a matter of the CPU's kernels; elsewhere they are not to be had.
    """
    if eight_bit:
        return Int8Linear(weight, bias, quantise)
    has_onednn = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    packable = has_onednn and weight.device.type == "cpu" and weight.dtype == torch.float32
    if packable and hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return PackedLinear(weight, bias)
    return PlainLinear(weight, bias)

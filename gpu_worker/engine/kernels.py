"""The small operations of a step: in plain torch, and compiled in one pass each where a C++ compiler is there.

The compiled ones read the cache where it lies instead of gathering it first, and give every token only its own
adapter's product, so that a mixed step costs little more than one of a single adapter.
"""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from gpu_worker.compiled import ENGINE, load_library
from gpu_worker.engine.block_pool import BLOCK_SIZE
from gpu_worker.engine.linear import LEAST_PEAK, quantised
from gpu_worker.engine.model_shape import ModelShape
from gpu_worker.engine.step_layout import DirectRows

_POINTER, _COUNT, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
_SIGNATURES: dict[str, tuple[type, ...]] = {
    "rotate_and_store": (_POINTER, *[_COUNT] * 5, _POINTER, _POINTER, _POINTER),
    "attend": (
        _POINTER, *[_COUNT] * 5, _POINTER, _POINTER, _POINTER, _COUNT, _COUNT, _FLOAT, _POINTER, _POINTER,
    ),
    "low_rank": (_POINTER, _COUNT, _POINTER, _COUNT, _POINTER, _POINTER, _COUNT, _POINTER, _COUNT),
    "rms_norm": (_POINTER, _POINTER, _FLOAT, _COUNT, _COUNT, _POINTER),
    "quantise": (_POINTER, _COUNT, _COUNT, _FLOAT, _POINTER, _POINTER),
    "gated": (_POINTER, _COUNT, _COUNT, ctypes.c_bool, _POINTER),
}  # fmt: skip


class Kernels:
    """Plain torch, for every device and type."""

    is_native = False

    def __init__(self, shape: ModelShape) -> None:
        self._shape = shape

    def rms_norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return the normed rows. Shapes: x (N, n), weight (n,)."""
        return functional.rms_norm(x, (x.shape[-1],), weight, self._shape.rms_eps)

    def gated(self, gate_up: Tensor) -> Tensor:
        """Return silu(gate) * up, or gelu(gate) * up (tanh). Shapes: gate_up (N, 2 n), result (N, n)."""
        gate, up = gate_up.chunk(2, -1)
        opened = functional.gelu(gate, approximate="tanh") if self._shape.family.gelu else functional.silu(gate)
        return opened.mul_(up)

    def quantise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return rows in 8 bits and their scales; see `linear.quantised`."""
        return quantised(x)

    def rotate_and_store(self, qkv: Tensor, rotation: Tensor, slots: Tensor, cache: Tensor) -> None:
        """Rotate queries and keys in place by position, write keys and values to the cache.

        Shapes: qkv (N, qkv_width), rotation (N, 1, head_dim / 2) complex, slots (N,), cache (slots, 2 * kv_width).
        """
        shape = self._shape
        rotated = qkv[:, : shape.query_width + shape.kv_width].view(len(qkv), -1, shape.head_dim // 2, 2)
        if qkv.dtype == torch.float32:
            torch.view_as_complex(rotated).mul_(rotation)
        else:
            turned = torch.view_as_complex(rotated.float()) * rotation
            rotated.copy_(torch.view_as_real(turned))
        cache.index_copy_(0, slots, qkv[:, shape.query_width :])


class NativeKernels(Kernels):
    """Compiled; float32 on the CPU only."""

    is_native = True

    def __init__(self, shape: ModelShape) -> None:
        """Compile or load. Raises: NativeUnavailable."""
        super().__init__(shape)
        self._library = load_library(ENGINE, _SIGNATURES)

    def rms_norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return the normed rows."""
        x = x.contiguous()
        out = torch.empty_like(x)
        self._library.rms_norm(x.data_ptr(), weight.data_ptr(), self._shape.rms_eps, *x.shape, out.data_ptr())
        return out

    def gated(self, gate_up: Tensor) -> Tensor:
        """Return silu(gate) * up, or gelu(gate) * up."""
        rows, width = gate_up.shape
        out = torch.empty(rows, width // 2)
        self._library.gated(gate_up.data_ptr(), rows, width // 2, self._shape.family.gelu, out.data_ptr())
        return out

    def quantise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return rows in 8 bits and their scales."""
        x = x.contiguous()
        rounded, scales = torch.empty(x.shape, dtype=torch.uint8), torch.empty(len(x), 1)
        self._library.quantise(x.data_ptr(), *x.shape, LEAST_PEAK, scales.data_ptr(), rounded.data_ptr())
        return rounded, scales

    def rotate_and_store(self, qkv: Tensor, rotation: Tensor, slots: Tensor, cache: Tensor) -> None:
        """Rotate queries and keys in place by position, write keys and values to the cache."""
        shape = self._shape
        self._library.rotate_and_store(
            qkv.data_ptr(), len(qkv), qkv.stride(0), shape.heads, shape.kv_heads, shape.head_dim,
            rotation.data_ptr(), slots.data_ptr(), cache.data_ptr(),
        )  # fmt: skip

    def attend(self, qkv: Tensor, rows: DirectRows, cache: Tensor, window: int | None = None) -> Tensor:
        """Return the attention of the first tokens, each over its own sequence, or the `window` last of it.

        Shapes: result (tokens, query_width).
        """
        shape = self._shape
        tokens = len(rows.lengths)
        out = torch.empty(tokens, shape.query_width)
        self._library.attend(
            qkv.data_ptr(), tokens, qkv.stride(0), shape.heads, shape.kv_heads, shape.head_dim,
            rows.tables.data_ptr(), rows.first.data_ptr(), rows.lengths.data_ptr(), BLOCK_SIZE,
            window or 0, shape.score_cap or 0.0, cache.data_ptr(), out.data_ptr(),
        )  # fmt: skip
        return out

    def low_rank(self, x: Tensor, tiles: Tensor, banks: Tensor, ends: Tensor, y: Tensor) -> None:
        """Add to each token's output the update of its own adapter, in place.

        Shapes: x (N, in), y (N, out), all others int64; tiles (n, 4): first token, how many of the same adapter, its
        first row in the banks, its rank; banks (2 * modules,): addresses of A, (rows, in), then of B, (rows, width),
        of each module; ends (modules,): where the columns of each module end.
        """
        self._library.low_rank(
            x.data_ptr(), x.shape[1], tiles.data_ptr(), len(tiles), banks.data_ptr(), ends.data_ptr(), len(ends),
            y.data_ptr(), y.shape[1],
        )  # fmt: skip


def column_ends(widths: Sequence[int]) -> Tensor:
    """Return where the columns of each module end. Shapes: (modules,), int64."""
    return torch.tensor(widths).cumsum(0)

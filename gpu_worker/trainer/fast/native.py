"""The kernels of `kernels.cpp`, called with the addresses of tensors; see `gpu_worker.compiled`."""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from gpu_worker import compiled
from gpu_worker.trainer.fast.kernels import Finish, Kernels, LowRank, LowRankBackward, TrainedLowRank
from gpu_worker.trainer.fast.packing import RowSpan
from gpu_worker.trainer.fast.products import Activations, Product, Quantised

WEIGHTS_FILLED_TO = 1 << 16  # numbers; for the same reason as `learner.FILLED_TO`
LANES = 16  # numbers in a vector, kLanes of kernels.cpp; its loops over a head's numbers know no rest
# Up to so many keys, attention keeps its weights. Beyond, torch's flash kernel makes them again, and its memory grows
# with the length instead of its square.
MOST_FUSED_KEYS = 256


class NativeKernels(Kernels):
    """One pass over the rows for each kernel, and in 8-bit arithmetic the rounding in the same pass."""

    def __init__(self, *, eight_bit: bool, gelu: bool = False) -> None:
        """Compile or load. Raises: NativeUnavailable."""
        super().__init__(gelu=gelu)
        self._library = compiled.load_library(compiled.TRAINER, _SIGNATURES)
        self._eight_bit = eight_bit

    def activations(self, x: Tensor, smoothing: Tensor | None = None) -> Activations:
        """Return x (T, n), in 8-bit arithmetic rounded as well."""
        eight = self._room(x)
        if eight is not None:
            self._library.quantise(_address(x), *x.shape, _address(smoothing), *_addresses(eight))
        return Activations(x, eight)

    def finisher(self, parts: Sequence[LowRank], columns: int) -> Finish:
        """Return a function that makes product + low-rank parts + residual out of a frozen product, in place."""
        with_low, without_low = _spans(parts, columns), _spans((), columns)

        def finish(product: Product, low: Tensor | None, residual: Tensor | None) -> Tensor:
            y = product.values
            if product.scales is None and low is None and residual is None:
                return y
            spans = without_low if low is None else with_low
            ranks = 0 if low is None else low.shape[1]
            self._library.finish(
                _address(y), _address(product.scales), _address(residual), _address(low), ranks, *y.shape,
                spans, len(spans),
            )  # fmt: skip
            return y

        return finish

    def low_rank_backward(self, parts: Sequence[TrainedLowRank], scale: float) -> LowRankBackward:
        """Return a function that adds the parts' gradients and returns scale · d_y upᵀ, both in one pass over d_y."""
        spans = (_TrainedSpan * len(parts))(*map(_trained_span, parts))
        room_each = sum(part.up.numel() for part in parts)

        def backward(d_y: Tensor, low: Tensor) -> Tensor:
            d_low = torch.empty_like(low)
            threads = torch.get_num_threads()
            room = torch.zeros((threads - 1) * room_each)
            self._library.low_rank_backward(
                _address(d_y), _address(low), *d_y.shape, low.shape[1], scale, spans, len(spans), _address(d_low),
                _address(room), room_each, threads,
            )  # fmt: skip
            return d_low

        return backward

    def cross_entropy(self, logits: Tensor, labels: Tensor, *, gradient: bool) -> float:
        """Return Σ −log softmax(x)[label]; with `gradient` the logits become its gradient."""
        losses = torch.empty(len(labels))
        self._library.cross_entropy(_address(logits), _address(labels), *logits.shape, int(gradient), _address(losses))
        return float(losses.sum())

    def rms_norm(
        self, hidden: Tensor, weight: Tensor, epsilon: float, smoothing: Tensor | None = None
    ) -> tuple[Activations, Tensor]:
        """Return the normed rows and 1 / rms(h), (T, 1)."""
        normed, inverse, eight = torch.empty_like(hidden), torch.empty(len(hidden), 1), self._room(hidden)
        self._library.rms_norm(
            _address(hidden), _address(weight), epsilon, *hidden.shape, _address(normed), _address(inverse),
            _address(smoothing), *_addresses(eight),
        )  # fmt: skip
        return Activations(normed, eight), inverse

    def rms_norm_backward(
        self,
        d_normed: Tensor,
        hidden: Tensor,
        inverse: Tensor,
        normed: Tensor,
        weight: Tensor,
        residual: Tensor | None,
    ) -> Activations:
        """Return the gradient by the hidden state, the residual's added."""
        d_hidden, eight = torch.empty_like(hidden), self._room(hidden)
        self._library.rms_norm_backward(
            _address(d_normed), _address(hidden), _address(inverse), _address(normed), _address(weight),
            _address(residual), *hidden.shape, _address(d_hidden), *_addresses(eight),
        )  # fmt: skip
        return Activations(d_hidden, eight)

    def rotate(
        self, heads: Tensor, cosine: Tensor, sine: Tensor, out: Tensor | None = None, *, back: bool = False
    ) -> Tensor:
        """Rotate all heads by their token's angle, or back."""
        rotated = torch.empty(heads.shape) if out is None else out
        rows, rotating, size = heads.shape
        self._library.rotate(
            heads.data_ptr(), heads.stride(0), _address(cosine), _address(sine), -1.0 if back else 1.0,
            rows, rotating, size // 2, rotated.data_ptr(), rotated.stride(0),
        )  # fmt: skip
        return rotated

    def gated(self, gate_up: Tensor, smoothing: Tensor | None = None) -> Activations:
        """Return silu(gate)∘up, or gelu(gate)∘up."""
        rows, width = gate_up.shape
        out = torch.empty(rows, width // 2)
        eight = self._room(out)
        self._library.gated(
            _address(gate_up), *out.shape, int(self.gelu), _address(out), _address(smoothing), *_addresses(eight)
        )
        return Activations(out, eight)

    def gated_backward(self, d_out: Tensor, gate_up: Tensor) -> tuple[Activations, Tensor]:
        """Return the gradients by gate and up side by side, and what `gated` returned once more."""
        result, eight, gated = torch.empty_like(gate_up), self._room(gate_up), torch.empty_like(d_out)
        self._library.gated_backward(
            _address(d_out), _address(gate_up), *d_out.shape, int(self.gelu), _address(result), _address(gated),
            *_addresses(eight),
        )  # fmt: skip
        return Activations(result, eight), gated

    def softmax_backward(self, d_weights: Tensor, weights: Tensor, factor: float) -> Tensor:
        """Return the gradient of the scores, in the place of d_weights."""
        keys = weights.shape[-1]
        self._library.softmax_backward(_address(d_weights), _address(weights), factor, weights.numel() // keys, keys)
        return d_weights

    def attention(
        self, spans: Sequence[RowSpan], *, heads: int, key_value_heads: int, head_size: int
    ) -> "NativeAttention | None":
        """Return attention in one pass, unless rows are so long that remembering all weights costs too much."""
        longest = max(span.prefix + span.count for span in spans)
        if longest > MOST_FUSED_KEYS or head_size % LANES:
            return None
        return NativeAttention(self._library, spans, heads, key_value_heads, head_size)

    def _room(self, x: Tensor) -> Quantised | None:
        if not self._eight_bit:
            return None
        return Quantised(torch.empty(x.shape, dtype=torch.uint8), torch.empty(len(x), 1))


class NativeAttention:
    """`FusedAttention` of the rows of one micro-batch, without padding and without looking where nobody may look."""

    def __init__(
        self, library: ctypes.CDLL, spans: Sequence[RowSpan], heads: int, key_value_heads: int, head_size: int
    ) -> None:
        self._library = library
        self._sizes = (heads, key_value_heads, head_size)
        self._factor = head_size**-0.5
        rows, self._weights = [], 0
        for span in spans:
            rows.append(_Row(span.first, span.count, span.prefix, self._weights))
            self._weights += heads * span.count * _padded(span.prefix + span.count)
        self._weights = -(-self._weights // WEIGHTS_FILLED_TO) * WEIGHTS_FILLED_TO
        self._rows, self._row_count = (_Row * len(rows))(*rows), len(rows)
        self._prefix = max(span.prefix for span in spans)
        longest = _padded(max(span.prefix + span.count for span in spans))
        self._room_each = (head_size + max(span.count for span in spans)) * longest
        self._threads = torch.get_num_threads()
        self._room = torch.empty(self._threads * self._room_each)
        self._shared = torch.empty(max(1, len(rows) * key_value_heads * 2 * self._prefix * head_size))

    def forward(self, stacked: Tensor) -> tuple[Tensor, Tensor]:
        """Return attention's output and weights."""
        heads, _groups, size = self._sizes
        out, weights = torch.empty(len(stacked), heads * size), torch.empty(self._weights)
        self._library.attention(
            _address(stacked), *self._sizes, self._rows, self._row_count, self._factor, _address(out),
            _address(weights), _address(self._room), self._room_each, self._threads,
        )  # fmt: skip
        return out, weights

    def backward(self, d_out: Tensor, stacked: Tensor, weights: Tensor) -> Tensor:
        """Return the gradient by stacked."""
        d_stacked = torch.empty_like(stacked)
        self._library.attention_backward(
            _address(d_out), _address(stacked), _address(weights), *self._sizes, self._rows, self._row_count,
            self._factor, _address(d_stacked), _address(self._room), self._room_each, self._threads,
            _address(self._shared), self._prefix,
        )  # fmt: skip
        return d_stacked


# --- calling -----------------------------------------------------------------------------------------------------


class _Span(ctypes.Structure):
    """`Span` of kernels.cpp."""

    _fields_ = (
        ("first_column", ctypes.c_int64), ("columns", ctypes.c_int64), ("first_rank", ctypes.c_int64),
        ("ranks", ctypes.c_int64), ("up", ctypes.c_void_p),
    )  # fmt: skip


class _TrainedSpan(ctypes.Structure):
    """`TrainedSpan` of kernels.cpp."""

    _fields_ = (*_Span._fields_, ("d_up", ctypes.c_void_p))


class _Row(ctypes.Structure):
    """`AttentionRow` of kernels.cpp."""

    _fields_ = (
        ("first", ctypes.c_int64), ("count", ctypes.c_int64), ("prefix", ctypes.c_int64), ("weights", ctypes.c_int64),
    )  # fmt: skip


def _padded(keys: int) -> int:
    return -(-keys // LANES) * LANES


_POINTER, _COUNT, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
_SIGNATURES: dict[str, tuple[type, ...]] = {
    "quantise": (_POINTER, _COUNT, _COUNT, *[_POINTER] * 3),
    "finish": (_POINTER, _POINTER, _POINTER, _POINTER, _COUNT, _COUNT, _COUNT, _POINTER, _COUNT),
    "rms_norm": (_POINTER, _POINTER, _FLOAT, _COUNT, _COUNT, *[_POINTER] * 5),
    "rms_norm_backward": (*[_POINTER] * 6, _COUNT, _COUNT, _POINTER, _POINTER, _POINTER),
    "rotate": (_POINTER, _COUNT, _POINTER, _POINTER, _FLOAT, _COUNT, _COUNT, _COUNT, _POINTER, _COUNT),
    "gated": (_POINTER, _COUNT, _COUNT, _COUNT, *[_POINTER] * 4),
    "gated_backward": (_POINTER, _POINTER, _COUNT, _COUNT, _COUNT, *[_POINTER] * 4),
    "low_rank_backward": (
        _POINTER, _POINTER, _COUNT, _COUNT, _COUNT, _FLOAT, _POINTER, _COUNT, _POINTER, _POINTER, _COUNT, _COUNT,
    ),
    "cross_entropy": (_POINTER, _POINTER, _COUNT, _COUNT, _COUNT, _POINTER),
    "attention": (
        _POINTER, _COUNT, _COUNT, _COUNT, _POINTER, _COUNT, _FLOAT, _POINTER, _POINTER, _POINTER, _COUNT, _COUNT,
    ),
    "attention_backward": (
        *[_POINTER] * 3, _COUNT, _COUNT, _COUNT, _POINTER, _COUNT, _FLOAT, _POINTER, _POINTER, _COUNT, _COUNT,
        _POINTER, _COUNT,
    ),
    "softmax_backward": (_POINTER, _POINTER, _FLOAT, _COUNT, _COUNT),
}  # fmt: skip


def _spans(parts: Sequence[LowRank], columns: int) -> "ctypes.Array[_Span]":
    """Return spans that cover all columns, those between the parts with no ranks."""
    spans, place = [], 0
    for part in parts:
        if part.columns.start > place:
            spans.append(_Span(place, part.columns.start - place, 0, 0, None))
        ranks = part.ranks.stop - part.ranks.start
        width = part.columns.stop - part.columns.start
        spans.append(_Span(part.columns.start, width, part.ranks.start, ranks, _address(part.up)))
        place = part.columns.stop
    if place < columns:
        spans.append(_Span(place, columns - place, 0, 0, None))
    return (_Span * len(spans))(*spans)


def _trained_span(part: TrainedLowRank) -> _TrainedSpan:
    columns, ranks = part.columns, part.ranks
    return _TrainedSpan(
        columns.start, columns.stop - columns.start, ranks.start, ranks.stop - ranks.start,
        _address(part.up), _address(part.up_gradient),
    )  # fmt: skip


def _address(tensor: Tensor | None) -> int | None:
    if tensor is None:
        return None
    assert tensor.is_contiguous(), "kernels read rows without gaps"
    return tensor.data_ptr()


def _addresses(eight: Quantised | None) -> tuple[int | None, int | None]:
    return (None, None) if eight is None else (eight.values.data_ptr(), eight.scales.data_ptr())

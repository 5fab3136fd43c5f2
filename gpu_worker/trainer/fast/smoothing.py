"""How large the columns are that each product of a base model reads, seen on some rows before anything is learned.

8-bit arithmetic goes by it (`products.smoothing_of`). The same rows give the same figures, so that a run that was
interrupted goes on in the arithmetic in which it began.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from datasets_app.learned_rows import EncodedRow
from gpu_worker.trainer.fast.decoder import FastDecoder, Layer
from gpu_worker.trainer.fast.kernels import Kernels
from gpu_worker.trainer.fast.packing import PackedBatch
from gpu_worker.trainer.fast.products import Activations, ExactProduct, Product
from gpu_worker.trainer.fast.projection import AdaptedProjection
from gpu_worker.trainer.fast.support import DecoderShape
from gpu_worker.trainer.fast.weights import DecoderWeights, FrozenProjection

MOST_ROWS, MOST_TOKENS = 16, 2048

Peaks = dict[str, Tensor]
"""The largest magnitude of each input column, (inputs,), by a stack's name."""


def sample_of(rows: Sequence[EncodedRow]) -> Sequence[EncodedRow]:
    """Return the first rows, few enough to be looked at in no time; at least one if there is any."""
    tokens = 0
    for count, row in enumerate(rows[:MOST_ROWS]):
        tokens += len(row.token_ids)
        if tokens > MOST_TOKENS:
            return rows[: max(1, count)]
    return rows[:MOST_ROWS]


def column_peaks(shape: DecoderShape, weights: DecoderWeights, batch: PackedBatch) -> list[Peaks]:
    """Return the peaks of each layer while the base model computes the batch, exactly and without adapters."""
    kernels = Kernels(gelu=shape.family.gelu)
    found: list[Peaks] = []
    layers = []
    for frozen, rope in zip(weights.layers, shape.ropes, strict=True):
        peaks: Peaks = {}

        def watched(name: str, stack: FrozenProjection, peaks: Peaks = peaks) -> AdaptedProjection:
            return AdaptedProjection(_Watched(stack, name, peaks), None, kernels)

        layers.append(Layer.of(frozen, rope, watched))
        found.append(peaks)
    decoder = FastDecoder(
        shape=shape,
        embedding=weights.embedding,
        layers=layers,
        final_norm=weights.final_norm,
        head=weights.head,
        kernels=kernels,
    )
    decoder.loss(batch)
    return found


class _Watched(ExactProduct):
    """Notes how large what it reads is."""

    def __init__(self, frozen: FrozenProjection, name: str, peaks: Peaks) -> None:
        super().__init__(frozen)
        self._name, self._peaks = name, peaks

    def forward(self, x: Activations) -> Product:
        """Return x Wᵀ + b, (T, outputs)."""
        self._peaks[self._name] = torch.linalg.vector_norm(x.exact, ord=torch.inf, dim=0)
        return super().forward(x)

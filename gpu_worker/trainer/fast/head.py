"""Cross-entropy over the vocabulary, and its gradient, only where an answer token is predicted."""

import torch
from torch import Tensor

from gpu_worker.trainer.fast.kernels import Kernels

CHUNK_BYTES = 64 * 1024 * 1024


class VocabularyHead:
    """The frozen head with its buffer for logits.

    The buffer is kept between calls: fresh pages for tens of megabytes per step cost more than the softmax itself.
    """

    def __init__(self, weight: Tensor, kernels: Kernels) -> None:
        """`weight`: (vocabulary, hidden)."""
        self._weight = weight
        self._kernels = kernels
        self._rows = max(1, CHUNK_BYTES // (weight.shape[0] * 4))
        self._buffer = torch.empty(0, weight.shape[0])

    def loss(self, normed: Tensor, labels: Tensor, d_normed: Tensor | None = None) -> float:
        """Return Σ −log softmax(x Wᵀ)[label]; write its gradient by x into `d_normed` if given.

        The gradient is (softmax − onehot(label)) W. Computed in chunks of rows, so memory does not grow with the
        answers. Shapes: normed, d_normed (L, hidden); labels (L,).
        """
        total = 0.0
        for start in range(0, len(labels), self._rows):
            part = slice(start, start + self._rows)
            total += self._chunk(normed[part], labels[part], None if d_normed is None else d_normed[part])
        return total

    def _chunk(self, normed: Tensor, labels: Tensor, d_normed: Tensor | None) -> float:
        logits = torch.mm(normed, self._weight.t(), out=self._room(len(labels)))
        loss = self._kernels.cross_entropy(logits, labels, gradient=d_normed is not None)
        if d_normed is not None:
            torch.mm(logits, self._weight, out=d_normed)
        return loss

    def _room(self, rows: int) -> Tensor:
        if len(self._buffer) < rows:
            self._buffer = torch.empty(rows, self._weight.shape[0])
        return self._buffer[:rows]

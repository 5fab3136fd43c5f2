"""Cross-entropy over the vocabulary, and its gradient, only where an answer token is predicted."""

import torch
from torch import Tensor

CHUNK_BYTES = 64 * 1024 * 1024


class VocabularyHead:
    """The frozen head with its buffer for logits.

    The buffer is kept between calls: fresh pages for tens of megabytes per step cost more than the softmax itself.
    """

    def __init__(self, weight: Tensor) -> None:
        """`weight`: (vocabulary, hidden)."""
        self._weight = weight
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
        label_logits = logits.gather(1, labels[:, None])[:, 0]
        highest, where = logits.max(dim=1)
        probabilities = torch.softmax(logits, dim=1, out=logits)
        # log Σ exp(logits), from the likeliest token: its probability is at least 1 / vocabulary, never 0
        log_sum = highest - probabilities.gather(1, where[:, None])[:, 0].log_()
        if d_normed is not None:
            probabilities[torch.arange(len(labels)), labels] -= 1.0
            torch.mm(probabilities, self._weight, out=d_normed)
        return float((log_sum - label_logits).sum())

    def _room(self, rows: int) -> Tensor:
        if len(self._buffer) < rows:
            self._buffer = torch.empty(rows, self._weight.shape[0])
        return self._buffer[:rows]

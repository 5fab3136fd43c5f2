"""NEFTune: random noise on the embeddings of the input while training, against learning the rows by heart."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class InputNoise:
    """Adds noise, uniform in ± alpha / √(tokens · width), to what the input embeddings give, in training only.

    `lengths`: tokens of each row of the coming micro-batch, since padding does not count.
    Source: Jain et al. 2023, arXiv:2310.05914, algorithm 1.
    """

    def __init__(self, causal_lm: Any, alpha: float) -> None:
        """Alpha 0 leaves the model as it is."""
        self.lengths: Sequence[int] = ()
        self._alpha = alpha
        self._causal_lm = causal_lm
        if alpha:
            causal_lm.get_input_embeddings().register_forward_hook(self._add)

    def _add(self, _module: Any, _inputs: Any, embedded: Tensor) -> Tensor:
        """Return the embeddings (rows, longest, width) with noise."""
        if not self._causal_lm.training:
            return embedded
        tokens = torch.tensor(self.lengths, device=embedded.device, dtype=embedded.dtype)[:, None, None]
        bound = self._alpha / (tokens * embedded.shape[-1]).sqrt()
        return embedded + torch.empty_like(embedded).uniform_(-1, 1) * bound

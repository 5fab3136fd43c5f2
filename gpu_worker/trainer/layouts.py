"""Rows of one micro-batch as tensors: padded to the longest, or one behind the other without padding."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from datasets_app.learned_rows import EncodedRow

# How far, as a share of their length, hidden states of the same row may lie apart after all layers. A model that lets
# rows see each other is off by a quarter and more.
ROUNDING = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 4e-2}


def padded(rows: Sequence[EncodedRow]) -> tuple[Tensor, Tensor, Tensor]:
    """Return token ids (rows, longest) padded behind, flat positions that predict a label, and those labels.

    The position before an answer token predicts it. Padding is told by length and never by a padding id: in many
    models padding and end-of-turn are the same token, and the end must be learned.
    """
    longest = max(len(row.token_ids) for row in rows)
    token_ids = torch.zeros(len(rows), longest, dtype=torch.long)
    predicting: list[int] = []
    labels: list[int] = []
    for number, row in enumerate(rows):
        token_ids[number, : len(row.token_ids)] = torch.tensor(row.token_ids)
        start = number * longest
        predicting += [start + place - 1 for place in row.label_places]
        labels += row.labels
    return token_ids, torch.tensor(predicting), torch.tensor(labels)


def packed(rows: Sequence[EncodedRow]) -> tuple[Tensor, Tensor, Tensor]:
    """Return token ids (1, tokens) of rows one behind the other, positions that predict a label, and those labels."""
    token_ids: list[int] = []
    predicting: list[int] = []
    labels: list[int] = []
    for row in rows:
        start = len(token_ids)
        predicting += [start + place - 1 for place in row.label_places]
        labels += row.labels
        token_ids += row.token_ids
    return torch.tensor(token_ids)[None], torch.tensor(predicting), torch.tensor(labels)


def positions_of(lengths: Sequence[int]) -> Tensor:
    """Return positions (1, tokens) that begin anew with every row."""
    return torch.cat([torch.arange(length) for length in lengths])[None]


@dataclass(frozen=True)
class Packing:
    """Whether rows one behind the other are less work than rows padded to the longest.

    `keys_per_token`: with how many keys attending costs as much as a token's products. `skips_others`: attention
    kernels that never look at other rows; others compute the whole square and hide most of it.
    """

    keys_per_token: float
    skips_others: bool

    @classmethod
    def of(cls, causal_lm: Any, device: str) -> "Packing | None":
        """Return it for a model that keeps packed rows apart, None for others."""
        if not _rows_stay_apart(causal_lm, device):
            return None
        config = causal_lm.config.get_text_config()
        weights = sum(parameter.numel() for parameter in causal_lm.get_decoder().layers[0].parameters())
        flash = "flash" in str(getattr(causal_lm.config, "_attn_implementation", ""))
        return cls(keys_per_token=weights / (2 * config.hidden_size), skips_others=flash)

    def pays(self, lengths: Sequence[int]) -> bool:
        """Tell whether a micro-batch of rows of these lengths is better packed."""
        tokens, padded = sum(lengths), len(lengths) * max(lengths)
        keys = max(lengths) if self.skips_others else tokens
        return tokens * (self.keys_per_token + keys) < padded * (self.keys_per_token + max(lengths))


def _rows_stay_apart(causal_lm: Any, device: str) -> bool:
    """Tell whether the model computes packed rows as if each were alone, by trying it."""
    causal_lm.eval()
    decoder = causal_lm.get_decoder()
    rows = (torch.tensor([5, 9, 3]), torch.tensor([7, 2, 11, 4]))
    with torch.no_grad():
        try:
            alone = [decoder(input_ids=row[None].to(device), use_cache=False).last_hidden_state[0] for row in rows]
            positions = positions_of([len(row) for row in rows]).to(device)
            together = decoder(
                input_ids=torch.cat(rows)[None].to(device), position_ids=positions, use_cache=False
            ).last_hidden_state[0]
            layers = len(decoder.layers)
        except (AttributeError, TypeError, ValueError, RuntimeError, IndexError):
            return False
    parts = together.split([len(row) for row in rows])
    return layers > 0 and all(_differ_by_rounding(one, other) for one, other in zip(alone, parts, strict=True))


def _differ_by_rounding(one: Tensor, other: Tensor) -> bool:
    """Tell whether two computations of the same hidden states differ by no more than their number format does."""
    distance = torch.linalg.vector_norm(one.float() - other.float()) / torch.linalg.vector_norm(one.float())
    return bool(distance <= ROUNDING.get(one.dtype, 1e-3))

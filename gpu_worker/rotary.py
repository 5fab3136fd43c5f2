"""Rotary positions: how far each pair of a head's features turns per position, as a base model's config.json says it.

Trainer and engine compute them here, so that what is learned is what is served.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

DEFAULT_THETA = 10_000.0


class UnknownScaling(ValueError):
    """A way of scaling positions that is not computed here; the text is its name."""


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3's stretching of the low rotary frequencies. Source: arXiv:2407.21783 and transformers' `llama3` rope."""

    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_positions: int


@dataclass(frozen=True)
class Rope:
    """The base of the frequencies, and how they are stretched, if they are."""

    theta: float = DEFAULT_THETA
    scaling: RopeScaling | None = None


def read_rope(config: Mapping[str, Any]) -> Rope:
    """Return what a `config.json` says, from where newer or older versions of transformers write it.

    Raises: UnknownScaling; KeyError, TypeError or ValueError if the scaling is incomplete.
    """
    parameters = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = float(parameters.get("rope_theta") or config.get("rope_theta") or DEFAULT_THETA)
    kind = parameters.get("rope_type") or parameters.get("type") or "default"
    if kind == "default":
        return Rope(theta)
    if kind != "llama3":
        raise UnknownScaling(str(kind))
    scaling = RopeScaling(
        factor=float(parameters["factor"]),
        low_frequency_factor=float(parameters["low_freq_factor"]),
        high_frequency_factor=float(parameters["high_freq_factor"]),
        original_positions=int(parameters["original_max_position_embeddings"]),
    )
    return Rope(theta, scaling)


def rotary_frequencies(rope: Rope, head_size: int) -> Tensor:
    """Return the rotation per position of each feature pair, in radians.

    Shapes: result (head_size / 2,), float32. Source: Su et al. 2021, arXiv:2104.09864, section 3.4.2.
    """
    exponents = torch.arange(0, head_size, 2, dtype=torch.int64).float() / head_size
    frequencies = 1.0 / (rope.theta**exponents)
    return frequencies if rope.scaling is None else _stretch(frequencies, rope.scaling)


def _stretch(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    """Slow down long wavelengths by `factor`, leave short ones, blend between."""
    wavelengths = 2 * math.pi / frequencies
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    blend = (scaling.original_positions / wavelengths - low) / (high - low)
    blend = blend.clamp(0.0, 1.0)
    return (1 - blend) * frequencies / scaling.factor + blend * frequencies

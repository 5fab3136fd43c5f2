"""The numbers that describe a llama-shaped decoder, read from a base model's config.json."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpu_worker.engine.errors import UnsupportedModel

ARCHITECTURES = frozenset({"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM"})


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3's stretching of the low rotary frequencies. Source: arXiv:2407.21783 and transformers' `llama3` rope."""

    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_positions: int


@dataclass(frozen=True)
class ModelShape:
    """Dimensions of a decoder; widths in numbers of features."""

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    rms_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None
    max_positions: int
    tied_head: bool
    qkv_bias: bool

    @property
    def query_width(self) -> int:
        """Features of all query heads together."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Features of all key heads together; the values have as many."""
        return self.kv_heads * self.head_dim

    @property
    def qkv_width(self) -> int:
        """Features of the fused query, key and value projection."""
        return self.query_width + 2 * self.kv_width


def read_model_shape(model_dir: Path) -> ModelShape:
    """Return the shape of a base model folder. Raises: UnsupportedModel with the reason."""
    try:
        config = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnsupportedModel(f"config.json cannot be read: {error}") from error
    _require_llama_shaped(config)
    heads = int(config["num_attention_heads"])
    qwen = config["architectures"][0] == "Qwen2ForCausalLM"
    return ModelShape(
        vocabulary=int(config["vocab_size"]),
        hidden=int(config["hidden_size"]),
        intermediate=int(config["intermediate_size"]),
        layers=int(config["num_hidden_layers"]),
        heads=heads,
        kv_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=int(config.get("head_dim") or config["hidden_size"] // heads),
        rms_eps=float(config["rms_norm_eps"]),
        rope_theta=_rope_theta(config),
        rope_scaling=_rope_scaling(config),
        max_positions=int(config["max_position_embeddings"]),
        tied_head=bool(config.get("tie_word_embeddings", False)),
        qkv_bias=qwen or bool(config.get("attention_bias", False)),
    )


def _require_llama_shaped(config: dict[str, Any]) -> None:
    architectures = config.get("architectures") or [None]
    if architectures[0] not in ARCHITECTURES:
        raise UnsupportedModel(f"the architecture {architectures[0]} has no fast path")
    if config.get("hidden_act") != "silu":
        raise UnsupportedModel(f"the activation {config.get('hidden_act')} has no fast path")
    if config.get("attention_bias") and architectures[0] == "LlamaForCausalLM":
        raise UnsupportedModel("a llama with biased projections has no fast path")
    if config.get("mlp_bias"):
        raise UnsupportedModel("a biased feed-forward layer has no fast path")
    if config.get("quantization_config"):
        raise UnsupportedModel("quantized weights have no fast path")
    window = config.get("sliding_window")
    if window and config.get("use_sliding_window", True) and window < config["max_position_embeddings"]:
        raise UnsupportedModel("sliding window attention has no fast path")


def _rope_parameters(config: dict[str, Any]) -> dict[str, Any]:
    return config.get("rope_parameters") or config.get("rope_scaling") or {}


def _rope_theta(config: dict[str, Any]) -> float:
    return float(_rope_parameters(config).get("rope_theta") or config.get("rope_theta") or 10000.0)


def _rope_scaling(config: dict[str, Any]) -> RopeScaling | None:
    parameters = _rope_parameters(config)
    kind = parameters.get("rope_type") or parameters.get("type") or "default"
    if kind == "default":
        return None
    if kind != "llama3":
        raise UnsupportedModel(f"the position scaling {kind} has no fast path")
    return RopeScaling(
        factor=float(parameters["factor"]),
        low_frequency_factor=float(parameters["low_freq_factor"]),
        high_frequency_factor=float(parameters["high_freq_factor"]),
        original_positions=int(parameters["original_max_position_embeddings"]),
    )


def rotary_frequencies(shape: ModelShape) -> Tensor:
    """Return the rotation per position of each feature pair, in radians.

    Shapes: result (head_dim / 2,), float32. Source: Su et al. 2021, arXiv:2104.09864, section 3.4.2.
    """
    exponents = torch.arange(0, shape.head_dim, 2, dtype=torch.int64).float() / shape.head_dim
    frequencies = 1.0 / (shape.rope_theta**exponents)
    if shape.rope_scaling is None:
        return frequencies
    return _stretch(frequencies, shape.rope_scaling)


def _stretch(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    """Slow down long wavelengths by `factor`, leave short ones, blend between."""
    wavelengths = 2 * math.pi / frequencies
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    blend = (scaling.original_positions / wavelengths - low) / (high - low)
    blend = blend.clamp(0.0, 1.0)
    return (1 - blend) * frequencies / scaling.factor + blend * frequencies

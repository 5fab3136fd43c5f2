"""The numbers that describe a llama-shaped decoder, read from a base model's config.json."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_worker.engine.errors import UnsupportedModel
from gpu_worker.rotary import Rope, UnknownScaling, read_rope

ARCHITECTURES = frozenset({"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"})
WITH_HEAD_NORMS = frozenset({"Qwen3ForCausalLM"})  # queries and keys are normed, head by head, before they are rotated


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
    rope: Rope
    max_positions: int
    tied_head: bool
    qkv_bias: bool
    head_norms: bool = False

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
        rope=_rope(config),
        max_positions=int(config["max_position_embeddings"]),
        tied_head=bool(config.get("tie_word_embeddings", False)),
        qkv_bias=qwen or bool(config.get("attention_bias", False)),
        head_norms=config["architectures"][0] in WITH_HEAD_NORMS,
    )


def _require_llama_shaped(config: dict[str, Any]) -> None:
    architectures = config.get("architectures") or [None]
    if architectures[0] not in ARCHITECTURES:
        raise UnsupportedModel(f"the architecture {architectures[0]} has no fast path")
    if config.get("hidden_act") != "silu":
        raise UnsupportedModel(f"the activation {config.get('hidden_act')} has no fast path")
    if config.get("attention_bias") and architectures[0] in ("LlamaForCausalLM", *WITH_HEAD_NORMS):
        raise UnsupportedModel("a biased output projection has no fast path")
    if config.get("mlp_bias"):
        raise UnsupportedModel("a biased feed-forward layer has no fast path")
    if config.get("quantization_config"):
        raise UnsupportedModel("quantized weights have no fast path")
    window = config.get("sliding_window")
    if window and config.get("use_sliding_window", True) and window < config["max_position_embeddings"]:
        raise UnsupportedModel("sliding window attention has no fast path")


def _rope(config: dict[str, Any]) -> Rope:
    try:
        return read_rope(config)
    except UnknownScaling as kind:
        raise UnsupportedModel(f"the position scaling {kind} has no fast path") from kind

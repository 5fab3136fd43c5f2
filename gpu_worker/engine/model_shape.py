"""The numbers that describe a llama-shaped decoder, read from a base model's config.json."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_worker.engine.errors import UnsupportedModel
from gpu_worker.families import (
    FAMILIES,
    Family,
    caps,
    has_tied_head,
    head_size,
    layer_ropes,
    layer_windows,
    query_scale,
    unknown_activation,
)
from gpu_worker.rotary import Rope, UnknownScaling

ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "GemmaForCausalLM": "gemma",
    "Gemma2ForCausalLM": "gemma2",
    "Gemma3ForCausalLM": "gemma3_text",
}
_WITHOUT_OUTPUT_BIAS = ("qwen2", "mistral")  # whatever their configs say of biases


@dataclass(frozen=True)
class ModelShape:
    """Dimensions of a decoder; widths in numbers of features.

    `ropes`: how far positions turn in each layer. `windows`: how many tokens back each layer looks, its own included,
    None for all. `query_scale`: what queries are multiplied by besides 1 / √head_dim. `score_cap`, `logit_cap`: the
    size beyond which attention's scores and the logits do not grow.
    """

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    rms_eps: float
    ropes: tuple[Rope, ...]
    windows: tuple[int | None, ...]
    max_positions: int
    tied_head: bool
    qkv_bias: bool
    family: Family = FAMILIES["llama"]
    query_scale: float = 1.0
    score_cap: float | None = None
    logit_cap: float | None = None

    @property
    def query_width(self) -> int:
        """Features of all query heads together."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Features of all key heads together; the values have as many."""
        return self.kv_heads * self.head_dim

    @property
    def window(self) -> int | None:
        """How many tokens back the layers look that do not look at everything; a model has one such number."""
        return next((window for window in self.windows if window), None)

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
    architecture = (config.get("architectures") or [None])[0]
    if architecture not in ARCHITECTURES:
        raise UnsupportedModel(f"the architecture {architecture} has no fast path")
    config["model_type"] = ARCHITECTURES[architecture]
    _require_known_parts(config)
    heads = int(config["num_attention_heads"])
    score_cap, logit_cap = caps(config)
    return ModelShape(
        vocabulary=int(config["vocab_size"]),
        hidden=int(config["hidden_size"]),
        intermediate=int(config["intermediate_size"]),
        layers=int(config["num_hidden_layers"]),
        heads=heads,
        kv_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=head_size(config),
        rms_eps=float(config["rms_norm_eps"]),
        ropes=_ropes(config),
        windows=_windows(config),
        max_positions=int(config["max_position_embeddings"]),
        tied_head=has_tied_head(config),
        qkv_bias=config["model_type"] == "qwen2" or bool(config.get("attention_bias", False)),
        family=FAMILIES[config["model_type"]],
        query_scale=query_scale(config),
        score_cap=score_cap,
        logit_cap=logit_cap,
    )


def _require_known_parts(config: dict[str, Any]) -> None:
    if activation := unknown_activation(config):
        raise UnsupportedModel(f"the activation {activation} has no fast path")
    if config.get("attention_bias") and config["model_type"] not in _WITHOUT_OUTPUT_BIAS:
        raise UnsupportedModel("a biased output projection has no fast path")
    if config.get("mlp_bias"):
        raise UnsupportedModel("a biased feed-forward layer has no fast path")
    if config.get("quantization_config"):
        raise UnsupportedModel("quantized weights have no fast path")
    if any(caps(config)) and FAMILIES[config["model_type"]].caps is None:
        raise UnsupportedModel("capping of logits has no fast path outside of Gemma 2")
    if config.get("use_bidirectional_attention"):
        raise UnsupportedModel("attention in both directions has no fast path")


def _windows(config: dict[str, Any]) -> tuple[int | None, ...]:
    """Return the layers' windows; one that no sequence outgrows is none."""
    most = int(config["max_position_embeddings"])
    return tuple(window if window and window < most else None for window in layer_windows(config))


def _ropes(config: dict[str, Any]) -> tuple[Rope, ...]:
    try:
        return layer_ropes(config)
    except UnknownScaling as kind:
        raise UnsupportedModel(f"the position scaling {kind} has no fast path") from kind

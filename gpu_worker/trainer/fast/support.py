"""Which runs the hand-written path can take, and the shape of the model it needs to know."""

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from experiments.hyperparameters import BASE_MODEL_STARTS
from gpu_worker.rotary import Rope, UnknownScaling, read_rope
from gpu_worker.trainer.errors import TrainingError
from gpu_worker.trainer.fast.weights import layer_tensor_names, tensor_files
from gpu_worker.trainer.spec import TrainSpec


@dataclass(frozen=True)
class Family:
    """In what a family of models differs from plain llama.

    `head_norms`: queries and keys are normed, head by head, before they are rotated. `outer_norms`: what attention and
    feed-forward give is normed, too, before it is added. `norm_offset` is added to the weights of all norms.
    `gelu`: gates are opened by GELU (tanh) instead of SiLU. `scaled_embedding`: by the root of the hidden size.
    """

    head_norms: bool = False
    outer_norms: bool = False
    norm_offset: float = 0.0
    gelu: bool = False
    scaled_embedding: bool = False


# Gemma: arXiv:2403.08295; Gemma 3: arXiv:2503.19786; Qwen 3: arXiv:2505.09388.
_GEMMA = Family(norm_offset=1.0, gelu=True, scaled_embedding=True)
FAMILIES = {
    "llama": Family(),
    "mistral": Family(),
    "qwen2": Family(),
    "qwen3": Family(head_norms=True),
    "gemma": _GEMMA,
    "gemma3_text": replace(_GEMMA, head_norms=True, outer_norms=True),
}
_GELUS = ("gelu_pytorch_tanh", "gelu")  # old configs of Gemma say "gelu" and mean the other
_GEMMA3_SCALAR = 256
_GEMMA3_THETA = {"full_attention": 1_000_000.0, "sliding_attention": 10_000.0}


@dataclass(frozen=True)
class DecoderShape:
    """Sizes of a llama-shaped decoder. `heads` share `key_value_heads`, `heads / key_value_heads` each.

    `ropes`: how far positions turn in each layer. `query_scale`: what queries are multiplied by besides 1 / √head size.
    """

    layers: int
    hidden: int
    heads: int
    key_value_heads: int
    head_size: int
    norm_epsilon: float
    ropes: tuple[Rope, ...]
    tied_head: bool
    family: Family
    query_scale: float = 1.0


def reason_against(spec: TrainSpec, *, device: str, longest_row: int) -> str | None:
    """Return why a run must take the general path, None if the fast one computes exactly the same."""
    config = read_config(spec.base_model.path)
    return (
        _reason_in_order(spec, device)
        or _reason_in_model(config, longest_row)
        or _reason_in_files(spec.base_model.path, config)
    )


def require_eight_bit(spec: TrainSpec, *, device: str, against: str | None) -> None:
    """Refuse 8-bit arithmetic where it cannot be had; `against` is what `reason_against` said.

    Raises: TrainingError (bad_settings) saying what to choose instead.
    """
    if spec.hyperparameters.precision != "int8":
        return
    if device != "cpu":
        reason = "it is for CPUs and this run has a GPU. Choose the number format Automatic and compress to 8 bit"
    elif not torch.cpu._is_vnni_supported():
        # Without VNNI the same kernels add pairs of products in 16 bits, which overflow: wrong, not just slow.
        reason = "this machine's processor has no VNNI instructions. Choose 32 bit"
    elif against is not None:
        reason = f"{against}. Choose 32 bit, or change that"
    else:
        return
    raise TrainingError("bad_settings", f"8-bit arithmetic cannot be used: {reason}.")


def computes_in_eight_bit(spec: TrainSpec) -> bool:
    """Tell whether the hand-written path multiplies in 8 bits: where that was ordered, or is the fastest there is."""
    precision = spec.hyperparameters.precision
    return precision == "int8" or (precision == "fastest" and torch.cpu._is_vnni_supported())


def read_config(model_dir: Path) -> dict[str, Any]:
    """Return the base model's `config.json`, empty if it cannot be read (the general path then says what is wrong)."""
    try:
        content = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def decoder_shape(config: dict[str, Any]) -> DecoderShape:
    """Return the sizes named in a `config.json` that passed `reason_against`."""
    heads = config["num_attention_heads"]
    head_size = config.get("head_dim") or config["hidden_size"] // heads
    family = FAMILIES[config["model_type"]]
    scalar = config.get("query_pre_attn_scalar", _GEMMA3_SCALAR) if family.outer_norms else head_size
    return DecoderShape(
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        heads=heads,
        key_value_heads=config.get("num_key_value_heads") or heads,
        head_size=head_size,
        norm_epsilon=config.get("rms_norm_eps", 1e-6),
        ropes=_ropes(config),
        tied_head=_has_tied_head(config),
        family=family,
        query_scale=(head_size / scalar) ** 0.5,
    )


def _reason_in_order(spec: TrainSpec, device: str) -> str | None:
    chosen = spec.hyperparameters
    if spec.path == "general":
        return "it was asked for"
    if device != "cpu":
        return "a GPU is used, for which torch brings fused kernels"
    if chosen.quantization != "none":
        return "the base model is compressed"
    if chosen.precision == "bf16":
        return "16-bit numbers are chosen"
    if chosen.problem_type == "preference":
        return "preferences compare two answers at once"
    if chosen.lora_dropout > 0:
        return "LoRA dropout is above 0"
    if chosen.gradient_checkpointing:
        return "gradient checkpointing is chosen"
    if chosen.training_kind == "full":
        return "all layers are trained"
    if chosen.dora:
        return "DoRA is chosen"
    if chosen.lora_init in BASE_MODEL_STARTS:
        return "the adapter starts from the base model"
    if chosen.frozen_layers:
        return "lower layers are left alone"
    if chosen.neftune_alpha > 0:
        return "noise on the input is chosen"
    if chosen.divide_base_model == "yes" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return "the base model is divided among processes"
    return None


def _reason_in_model(config: dict[str, Any], longest_row: int) -> str | None:
    family = FAMILIES.get(config.get("model_type", ""))
    if family is None:
        return f"the base model is of the kind {config.get('model_type', 'unknown')}, not {', '.join(FAMILIES)}"
    if config.get("quantization_config"):
        return "the base model's files are compressed"
    activations = _GELUS if family.gelu else ("silu",)
    activation = config.get("hidden_activation") or config.get("hidden_act") or activations[0]
    if activation not in activations:
        return f"the base model uses the activation {activation}"
    if config.get("attn_logit_softcapping") or config.get("final_logit_softcapping"):
        return "the base model caps its logits"
    if config.get("use_bidirectional_attention"):
        return "the base model's tokens look ahead"
    try:
        _ropes(config)
    except UnknownScaling as kind:
        return f"the base model scales positions ({kind})"
    except (KeyError, TypeError, ValueError):
        return "the base model's files have an unusual layout"
    window = config.get("sliding_window")
    if window and config.get("use_sliding_window", True) and longest_row > window:
        return f"rows are longer than the base model's attention window of {window} tokens"
    return None


def _reason_in_files(model_dir: Path, config: dict[str, Any]) -> str | None:
    """Look for parts that plain llama does not have, such as norms on queries and keys."""
    try:
        names = set(tensor_files(model_dir))
        norms = norms_of(FAMILIES[config["model_type"]])
        layers = range(config["num_hidden_layers"])
        known = set().union(*(layer_tensor_names(layer, norms.values()) for layer in layers))
    except (OSError, ValueError, KeyError, TypeError):
        return "the base model's files have an unusual layout"
    known |= {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
    required = {name for name in known if name.endswith(".weight") and name != "lm_head.weight"}
    ignored = {name for name in names if name.endswith("rotary_emb.inv_freq")}  # derived, saved by old versions
    if not required <= names or names - known - ignored:
        return "the base model has parts that plain llama has not"
    if not _has_tied_head(config) and "lm_head.weight" not in names:
        return "the base model's head is missing from its files"
    return None


def norms_of(family: Family) -> dict[str, str]:
    """Return the norms of a family's layer: what they are called here, and in the files."""
    inner = "pre_feedforward_layernorm" if family.outer_norms else "post_attention_layernorm"
    norms = {"attention_norm": "input_layernorm", "mlp_norm": inner}
    if family.outer_norms:
        norms |= {"attention_out_norm": "post_attention_layernorm", "mlp_out_norm": "post_feedforward_layernorm"}
    if family.head_norms:
        norms |= {"query_norm": "self_attn.q_norm", "key_norm": "self_attn.k_norm"}
    return norms


def _has_tied_head(config: dict[str, Any]) -> bool:
    """Tell whether the embedding is the head; Gemma's configs need not say so."""
    return bool(config.get("tie_word_embeddings", FAMILIES[config["model_type"]].scaled_embedding))


def _ropes(config: dict[str, Any]) -> tuple[Rope, ...]:
    """Return the rotary positions of each layer. Raises: UnknownScaling, KeyError, TypeError, ValueError."""
    layers = int(config["num_hidden_layers"])
    if config["model_type"] != "gemma3_text":
        return (read_rope(config),) * layers
    kinds = _layer_kinds(config)
    given = config.get("rope_parameters") or {}
    if not set(given) & set(_GEMMA3_THETA):  # before transformers 5: one for the whole, and the base of the others
        scaling = given or config.get("rope_scaling")
        local = config.get("rope_local_base_freq", _GEMMA3_THETA["sliding_attention"])
        whole = scaling or {}
        given = {
            "full_attention": {**whole, "rope_theta": config.get("rope_theta") or whole.get("rope_theta")},
            "sliding_attention": {"rope_theta": local},
        }
    known = {
        kind: read_rope({"rope_parameters": given.get(kind) or {}, "rope_theta": theta})
        for kind, theta in _GEMMA3_THETA.items()
    }
    return tuple(known[kind] for kind in kinds)


def _layer_kinds(config: dict[str, Any]) -> list[str]:
    """Return which of Gemma 3's layers look at everything, and which at what is near."""
    if kinds := config.get("layer_types"):
        return list(kinds)[: config["num_hidden_layers"]]
    pattern = config.get("sliding_window_pattern") or config.get("_sliding_window_pattern") or 6
    layers = range(1, config["num_hidden_layers"] + 1)
    return ["sliding_attention" if layer % pattern else "full_attention" for layer in layers]

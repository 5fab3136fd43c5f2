"""Which runs the hand-written path can take, and the shape of the model it needs to know."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from experiments.paths import against_eight_bit, reason_for_general_path
from gpu_worker.families import (
    FAMILIES,
    Family,
    caps,
    has_tied_head,
    head_size,
    layer_ropes,
    layer_windows,
    norms_of,
    query_scale,
    unknown_activation,
)
from gpu_worker.rotary import Rope, UnknownScaling
from gpu_worker.trainer.errors import TrainingError
from gpu_worker.trainer.fast.weights import layer_tensor_names, tensor_files
from gpu_worker.trainer.spec import TrainSpec


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
        raise TrainingError("bad_settings", against_eight_bit(against).sentence)
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
    return DecoderShape(
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        heads=heads,
        key_value_heads=config.get("num_key_value_heads") or heads,
        head_size=head_size(config),
        norm_epsilon=config.get("rms_norm_eps", 1e-6),
        ropes=layer_ropes(config),
        tied_head=has_tied_head(config),
        family=FAMILIES[config["model_type"]],
        query_scale=query_scale(config),
    )


def _reason_in_order(spec: TrainSpec, device: str) -> str | None:
    chosen = spec.hyperparameters
    if spec.path == "general":
        return "it was asked for"
    if device != "cpu":
        return "a GPU is used, for which torch brings fused kernels"
    if reason := reason_for_general_path(chosen):
        return reason
    if chosen.divide_base_model == "yes" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return "the base model is divided among processes"
    return None


def _reason_in_model(config: dict[str, Any], longest_row: int) -> str | None:
    if config.get("model_type") not in FAMILIES:
        return f"the base model is of the kind {config.get('model_type', 'unknown')}, not {', '.join(FAMILIES)}"
    if config.get("quantization_config"):
        return "the base model's files are compressed"
    if activation := unknown_activation(config):
        return f"the base model uses the activation {activation}"
    if any(caps(config)):
        return "the base model caps its logits"
    if config.get("use_bidirectional_attention"):
        return "the base model's tokens look ahead"
    try:
        layer_ropes(config)
        windows = [window for window in layer_windows(config) if window]
    except UnknownScaling as kind:
        return f"the base model scales positions ({kind})"
    except (KeyError, TypeError, ValueError):
        return "the base model's files have an unusual layout"
    if windows and longest_row > min(windows):
        return f"rows are longer than the base model's attention window of {min(windows)} tokens"
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
    if not has_tied_head(config) and "lm_head.weight" not in names:
        return "the base model's head is missing from its files"
    return None

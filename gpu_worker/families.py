"""In what the families of llama-shaped models differ, as a base model's config.json says it.

Trainer and engine read it here, so that what is learned is what is served.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from gpu_worker.rotary import Rope, read_rope


@dataclass(frozen=True)
class Family:
    """In what a family of models differs from plain llama.

    `head_norms`: queries and keys are normed, head by head, before they are rotated. `outer_norms`: what attention and
    feed-forward give is normed, too, before it is added. `norm_offset` is added to the weights of all norms.
    `gelu`: gates are opened by GELU (tanh) instead of SiLU. `scaled_embedding`: by the root of the hidden size.
    `caps`: the size beyond which scores and logits do not grow, where a config does not say otherwise.
    """

    head_norms: bool = False
    outer_norms: bool = False
    norm_offset: float = 0.0
    gelu: bool = False
    scaled_embedding: bool = False
    caps: tuple[float, float] | None = None


# Gemma: arXiv:2403.08295; Gemma 2: arXiv:2408.00118; Gemma 3: arXiv:2503.19786; Qwen 3: arXiv:2505.09388.
_GEMMA: Final = Family(norm_offset=1.0, gelu=True, scaled_embedding=True)
FAMILIES: Final = {
    "llama": Family(),
    "mistral": Family(),
    "qwen2": Family(),
    "qwen3": Family(head_norms=True),
    "gemma": _GEMMA,
    "gemma2": replace(_GEMMA, outer_norms=True, caps=(50.0, 30.0)),
    "gemma3_text": replace(_GEMMA, outer_norms=True, head_norms=True),
}
_GELUS: Final = ("gelu_pytorch_tanh", "gelu")  # old configs of Gemma say "gelu" and mean the other
_GEMMA_SCALAR: Final = 256
_GEMMA3_THETA: Final = {"full_attention": 1_000_000.0, "sliding_attention": 10_000.0}
# Of how many layers one looks at everything, where a config does not name them; the others look at what is near.
_GEMMA_PATTERNS: Final = {"gemma2": 2, "gemma3_text": 6}


def unknown_activation(config: Mapping[str, Any]) -> str | None:
    """Return what opens a model's gates if it is not what opens those of its family."""
    known = _GELUS if FAMILIES[config["model_type"]].gelu else ("silu",)
    activation = config.get("hidden_activation") or config.get("hidden_act") or known[0]
    return None if activation in known else str(activation)


def caps(config: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Return the size beyond which attention's scores, and the logits, do not grow; None where they may."""
    usual = FAMILIES[config["model_type"]].caps or (None, None)
    names = ("attn_logit_softcapping", "final_logit_softcapping")
    scores, logits = (config.get(name, default) or None for name, default in zip(names, usual, strict=True))
    return scores, logits


def head_size(config: Mapping[str, Any]) -> int:
    """Return how many features a head has."""
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def query_scale(config: Mapping[str, Any]) -> float:
    """Return what queries are multiplied by besides 1 / √head size."""
    if not FAMILIES[config["model_type"]].outer_norms:
        return 1.0
    scale: float = (head_size(config) / config.get("query_pre_attn_scalar", _GEMMA_SCALAR)) ** 0.5
    return scale


def has_tied_head(config: Mapping[str, Any]) -> bool:
    """Tell whether the embedding is the head; Gemma's configs need not say so."""
    return bool(config.get("tie_word_embeddings", FAMILIES[config["model_type"]].scaled_embedding))


def norms_of(family: Family) -> dict[str, str]:
    """Return the norms of a family's layer: what they are called here, and in the files."""
    inner = "pre_feedforward_layernorm" if family.outer_norms else "post_attention_layernorm"
    norms = {"attention_norm": "input_layernorm", "mlp_norm": inner}
    if family.outer_norms:
        norms |= {"attention_out_norm": "post_attention_layernorm", "mlp_out_norm": "post_feedforward_layernorm"}
    if family.head_norms:
        norms |= {"query_norm": "self_attn.q_norm", "key_norm": "self_attn.k_norm"}
    return norms


def layer_ropes(config: Mapping[str, Any]) -> tuple[Rope, ...]:
    """Return the rotary positions of each layer. Raises: UnknownScaling, KeyError, TypeError, ValueError."""
    layers = int(config["num_hidden_layers"])
    if config["model_type"] != "gemma3_text":
        return (read_rope(config),) * layers
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
    return tuple(known[kind] for kind in _layer_kinds(config))


def layer_windows(config: Mapping[str, Any]) -> tuple[int | None, ...]:
    """Return how many tokens back each layer looks, its own included; None for those that look at everything."""
    is_qwen = config["model_type"] in ("qwen2", "qwen3")
    window = config.get("sliding_window") if config.get("use_sliding_window", not is_qwen) else None
    kinds = _layer_kinds(config)
    return tuple(int(window) if window and kind == "sliding_attention" else None for kind in kinds)


def _layer_kinds(config: Mapping[str, Any]) -> list[str]:
    """Return which layers look at everything, and which at what is near."""
    layers = range(1, int(config["num_hidden_layers"]) + 1)
    kind = config["model_type"]
    if kind in ("llama", "gemma"):
        return ["full_attention" for _ in layers]
    if kind == "mistral":
        return ["sliding_attention" for _ in layers]
    if kinds := config.get("layer_types"):
        return list(kinds)[: len(layers)]
    if kind in _GEMMA_PATTERNS:
        pattern = config.get("sliding_window_pattern") or config.get("_sliding_window_pattern") or _GEMMA_PATTERNS[kind]
        return ["sliding_attention" if layer % pattern else "full_attention" for layer in layers]
    last = config.get("max_window_layers", len(layers))
    return ["sliding_attention" if layer > last else "full_attention" for layer in layers]

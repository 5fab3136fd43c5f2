"""The merged model as one GGUF file, which llama.cpp and Ollama run. The reverse of `gpu_worker.gguf_conversion`.

The names, the order of rows in query and key projections, and the metadata are those that llama.cpp's own converter
writes for models of the llama family.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from gpu_worker.exporter.errors import ExportError
from gpu_worker.exporter.merge import Merged
from gpu_worker.exporter.tensor_files import Array
from gpu_worker.gguf_conversion import CONTROL_TOKEN, LAYER_NAMES, OUTER_NAMES, USER_DEFINED_TOKEN

NORMAL_TOKEN, UNUSED_TOKEN = 1, 5
TYPES = {
    "f32": gguf.GGMLQuantizationType.F32,
    "f16": gguf.GGMLQuantizationType.F16,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
}
_FILE_TYPES = {"f32": gguf.LlamaFileType.ALL_F32, "f16": gguf.LlamaFileType.MOSTLY_F16, "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0}  # fmt: skip # noqa: E501
_LAYER = {theirs: ours for ours, theirs in LAYER_NAMES.items()}
_OUTER = {theirs: ours for ours, theirs in OUTER_NAMES.items()}


def write_gguf(model: Merged, path: Path, *, weights: str, name: str, done: Callable[[float], None]) -> None:
    """Write the model; `weights` is a key of TYPES: how the large matrices are kept (vectors always as F32).

    Raises: ExportError for architectures and tokenizers that this does not write.
    """
    config = json.loads((model.base / "config.json").read_text(encoding="utf-8"))
    if config.get("model_type") != "llama" or config.get("attention_bias") or config.get("mlp_bias"):
        raise ExportError("gguf_architecture", "Only models of the llama family without biases can be written as GGUF.")
    if (config.get("rope_scaling") or config.get("rope_parameters") or {}).get("rope_type", "default") != "default":
        raise ExportError("gguf_architecture", "Models with scaled rotary positions cannot be written as GGUF yet.")
    writer = gguf.GGUFWriter(path, "llama", use_temp_file=True)
    _write_shape(writer, config, name)
    writer.add_file_type(_FILE_TYPES[weights])
    _write_tokenizer(writer, model.base, config)
    heads = int(config["num_attention_heads"])
    kv_heads = int(config.get("num_key_value_heads") or heads)
    for number, tensor in enumerate(model.tensors, start=1):
        if tensor == "lm_head.weight" and config.get("tie_word_embeddings"):
            continue
        values = model.values(tensor)
        if ".q_proj." in tensor or ".k_proj." in tensor:
            values = permute(values, heads if ".q_proj." in tensor else kv_heads)
        _add(writer, gguf_name(tensor), values, weights)
        done(0.9 * number / len(model.tensors))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    done(1.0)


def gguf_name(name: str) -> str:
    """Return llama.cpp's name of a tensor: model.layers.3.self_attn.q_proj.weight → blk.3.attn_q.weight."""
    parts = name.split(".")
    if parts[:2] == ["model", "layers"] and (kind := ".".join(parts[3:-1])) in _LAYER:
        return f"blk.{parts[2]}.{_LAYER[kind]}.weight"
    if (outer := ".".join(parts[:-1])) in _OUTER:
        return f"{_OUTER[outer]}.weight"
    raise ExportError("gguf_architecture", f"The tensor {name} is not part of a plain llama model.")


def permute(weight: Array, heads: int) -> Array:
    """Return rows in llama.cpp's order: it rotates neighbouring pairs, transformers the two halves of a head.

    Shapes: weight and result (heads · head_dim, hidden).
    """
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows, columns))


def _add(writer: gguf.GGUFWriter, name: str, values: Array, weights: str) -> None:
    kind = TYPES[weights] if values.ndim > 1 else TYPES["f32"]
    block, _bytes = gguf.GGML_QUANT_SIZES[kind]
    if values.shape[-1] % block:  # a row has to be a whole number of blocks
        kind = TYPES["f16"]
    if kind in (TYPES["f32"], TYPES["f16"]):
        writer.add_tensor(name, values.astype(np.float32 if kind == TYPES["f32"] else np.float16))
    else:
        writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)


def _write_shape(writer: gguf.GGUFWriter, config: dict[str, Any], name: str) -> None:
    heads = int(config["num_attention_heads"])
    head_size = int(config.get("head_dim") or config["hidden_size"] // heads)
    theta = config.get("rope_theta") or (config.get("rope_parameters") or {}).get("rope_theta") or 10_000.0
    writer.add_name(name)
    writer.add_vocab_size(int(config["vocab_size"]))
    writer.add_context_length(int(config["max_position_embeddings"]))
    writer.add_embedding_length(int(config["hidden_size"]))
    writer.add_block_count(int(config["num_hidden_layers"]))
    writer.add_feed_forward_length(int(config["intermediate_size"]))
    writer.add_head_count(heads)
    writer.add_head_count_kv(int(config.get("num_key_value_heads") or heads))
    writer.add_rope_dimension_count(head_size)
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_rope_freq_base(float(theta))
    writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))


def _write_tokenizer(writer: gguf.GGUFWriter, base: Path, config: dict[str, Any]) -> None:
    content = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))
    model = content["model"]
    if model.get("type") != "BPE" or "merges" not in model:
        raise ExportError("gguf_tokenizer", "Only byte-level BPE tokenizers can be written as GGUF.")
    size = int(config["vocab_size"])
    tokens = [f"[PAD{place}]" for place in range(size)]
    kinds = [UNUSED_TOKEN] * size
    for text, place in model["vocab"].items():
        tokens[place], kinds[place] = text, NORMAL_TOKEN
    for added in content.get("added_tokens") or ():
        kind = CONTROL_TOKEN if added.get("special") else USER_DEFINED_TOKEN
        tokens[added["id"]], kinds[added["id"]] = added["content"], kind
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_pre_tokenizer(content.get("pre_tokenizer") or {}))
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([one if isinstance(one, str) else " ".join(one) for one in model["merges"]])
    writer.add_add_bos_token(False)
    settings = json.loads((base / "tokenizer_config.json").read_text(encoding="utf-8"))
    places = {text: place for place, text in enumerate(tokens)}
    for key, add in (
        ("bos_token", writer.add_bos_token_id), ("eos_token", writer.add_eos_token_id),
        ("pad_token", writer.add_pad_token_id), ("unk_token", writer.add_unk_token_id),
    ):  # fmt: skip
        text = settings.get(key)
        text = text.get("content") if isinstance(text, dict) else text
        if text in places:
            add(places[text])
    template = base / "chat_template.jinja"
    chat = template.read_text(encoding="utf-8") if template.is_file() else settings.get("chat_template")
    if isinstance(chat, str):
        writer.add_chat_template(chat)


def _pre_tokenizer(rules: dict[str, Any]) -> str:
    """Return llama.cpp's name for the rules by which text is cut before merging. Raises: ExportError."""
    steps = rules.get("pretokenizers") or [rules]
    kinds = [step.get("type") for step in steps]
    if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits"):
        return "smollm"
    if kinds == ["ByteLevel"]:
        return "gpt-2"
    raise ExportError("gguf_tokenizer", "llama.cpp has no name for the way in which this tokenizer cuts text.")

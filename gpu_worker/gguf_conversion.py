"""Turn a llama-family GGUF file into a clean safetensors folder.

transformers can read GGUF too, but takes half a minute for it, leaves a quantization note in the
config that makes later loads wrong, and forgets the pre-tokenizer that the file asks for.  Here the
tensors and the vocabulary are read once with the `gguf` package and written under the names that
every tool expects.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

Array = npt.NDArray[np.float32]

CONTROL_TOKEN = 3
USER_DEFINED_TOKEN = 4

LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OUTER_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}


class ConversionError(ValueError):
    """The GGUF file is not of a kind that can be converted; the message says what is unexpected."""


@dataclass(frozen=True)
class LlamaShape:
    """The sizes that a llama-family GGUF file declares."""

    layers: int
    heads: int
    key_value_heads: int
    hidden: int
    feed_forward: int
    context: int
    vocabulary: int
    rope_theta: float
    norm_epsilon: float


def convert_gguf(source: Path, target: Path) -> None:
    """Write config, weights, tokenizer and chat template of `source` into the existing folder `target`.

    Raises: ConversionError when the file is not a byte-level BPE llama model.
    """
    reader = gguf.GGUFReader(source)
    shape = read_shape(reader)
    tied = save_weights(reader, shape, target / "model.safetensors")
    save_tokenizer(reader, shape, target)
    write_json(target / "config.json", model_config(reader, shape, tied=tied))
    write_json(target / "generation_config.json", special_ids(reader))


def read_shape(reader: gguf.GGUFReader) -> LlamaShape:
    """Return the model's sizes. Raises: ConversionError for another architecture."""
    architecture = field(reader, "general.architecture")
    if architecture != "llama":
        raise ConversionError(f"The file holds a {architecture} model; only llama models can be converted.")
    return LlamaShape(
        layers=field(reader, "llama.block_count"),
        heads=field(reader, "llama.attention.head_count"),
        key_value_heads=field(reader, "llama.attention.head_count_kv"),
        hidden=field(reader, "llama.embedding_length"),
        feed_forward=field(reader, "llama.feed_forward_length"),
        context=field(reader, "llama.context_length"),
        vocabulary=len(field(reader, "tokenizer.ggml.tokens")),
        rope_theta=field(reader, "llama.rope.freq_base"),
        # stored as a 32-bit float: 9.999999747378752e-06 was 1e-05 before
        norm_epsilon=float(f"{field(reader, 'llama.attention.layer_norm_rms_epsilon'):.6g}"),
    )


def field(reader: gguf.GGUFReader, name: str) -> Any:
    """Return the value of one metadata field. Raises: ConversionError when it is missing."""
    found = reader.get_field(name)
    if found is None:
        raise ConversionError(f"The file lacks the field {name}.")
    return found.contents()


def save_weights(reader: gguf.GGUFReader, shape: LlamaShape, path: Path) -> bool:
    """Write all tensors as float32 and return whether input and output embedding are one tensor.

    float32, because the values need it: Q4_1 is `scale · q + minimum` and Q8_0 is `scale · q` with a
    half precision scale, so a value carries up to 18 significant bits; bfloat16 keeps 8, float16 11.
    """
    tensors = dict(named_tensors(reader, shape))
    save_file(tensors, path, metadata={"format": "pt"})
    return "lm_head.weight" not in tensors


def named_tensors(reader: gguf.GGUFReader, shape: LlamaShape) -> Iterator[tuple[str, Array]]:
    """Yield (name as in transformers, dequantized values) for each tensor of the file."""
    for tensor in reader.tensors:
        values = np.ascontiguousarray(gguf.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        if ".attn_q." in tensor.name:
            values = unpermute(values, shape.heads)
        elif ".attn_k." in tensor.name:
            values = unpermute(values, shape.key_value_heads)
        yield transformers_name(tensor.name), values


def transformers_name(name: str) -> str:
    """Return the transformers name of a GGUF tensor: blk.3.attn_q.weight → model.layers.3.self_attn.q_proj.weight."""
    match name.split("."):
        case ["blk", layer, kind, "weight"] if kind in LAYER_NAMES:
            return f"model.layers.{layer}.{LAYER_NAMES[kind]}.weight"
        case [kind, "weight"] if kind in OUTER_NAMES:
            return f"{OUTER_NAMES[kind]}.weight"
    raise ConversionError(f"The tensor {name} is not part of a plain llama model.")


def unpermute(weight: Array, heads: int) -> Array:
    """Undo llama.cpp's row order of query and key projections.

    llama.cpp rotates neighbouring pairs, transformers rotates the two halves of a head, so the
    exporter interleaved the halves. Shapes: weight and result (heads · head_dim, hidden).
    """
    rows, columns = weight.shape
    half = rows // heads // 2
    pairs = weight.reshape(heads, half, 2, columns)
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(rows, columns))


def save_tokenizer(reader: gguf.GGUFReader, shape: LlamaShape, target: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja."""
    tokens = field(reader, "tokenizer.ggml.tokens")
    template = field(reader, "tokenizer.chat_template")
    build_tokenizer(reader, tokens).save(str(target / "tokenizer.json"), pretty=False)
    (target / "chat_template.jinja").write_text(template, encoding="utf-8")
    ids = special_ids(reader)
    write_json(
        target / "tokenizer_config.json",
        {
            # the name that transformers 4 and 5 both know
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": tokens[ids["bos_token_id"]],
            "eos_token": tokens[ids["eos_token_id"]],
            "pad_token": tokens[ids["pad_token_id"]],
            "unk_token": tokens[field(reader, "tokenizer.ggml.unknown_token_id")],
            "model_max_length": shape.context,
            "clean_up_tokenization_spaces": False,
            "chat_template": template,
        },
    )


def build_tokenizer(reader: gguf.GGUFReader, tokens: list[str]) -> Tokenizer:
    """Return the byte-level BPE tokenizer that the file describes.

    The pre-tokenizer `smollm` sets every digit apart before the GPT-2 rules apply; it matters only
    for several blanks in front of a number.
    """
    kind = (field(reader, "tokenizer.ggml.model"), field(reader, "tokenizer.ggml.pre"))
    if kind != ("gpt2", "smollm"):
        raise ConversionError(f"The tokenizer {kind} is unknown; only the byte-level BPE of SmolLM is.")
    merges = [tuple(merge.split(" ", 1)) for merge in field(reader, "tokenizer.ggml.merges")]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    types = field(reader, "tokenizer.ggml.token_type")
    marked = [(token, kind) for token, kind in zip(tokens, types, strict=True) if kind != 1]
    tokenizer.add_special_tokens([plain_token(token) for token, kind in marked if kind == CONTROL_TOKEN])
    tokenizer.add_tokens([plain_token(token) for token, kind in marked if kind == USER_DEFINED_TOKEN])
    return tokenizer


def plain_token(text: str) -> AddedToken:
    """Return an added token that matches exactly its text, nothing around it."""
    return AddedToken(text, normalized=False)


def special_ids(reader: gguf.GGUFReader) -> dict[str, int]:
    """Return the ids of the tokens that begin, end and fill a text."""
    names = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
    return {key: int(field(reader, f"tokenizer.ggml.{name}_token_id")) for key, name in names.items()}


def model_config(reader: gguf.GGUFReader, shape: LlamaShape, *, tied: bool) -> dict[str, Any]:
    """Return config.json for a llama model, readable by transformers 4 and 5 alike."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "dtype": "float32",
        "torch_dtype": "float32",
        "head_dim": shape.hidden // shape.heads,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initializer_range": 0.02,
        "intermediate_size": shape.feed_forward,
        "max_position_embeddings": shape.context,
        "mlp_bias": False,
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.key_value_heads,
        "rms_norm_eps": shape.norm_epsilon,
        # version 4 knows only rope_theta and would fall back to 10000 without a word; 5 reads rope_parameters
        "rope_theta": shape.rope_theta,
        "rope_parameters": {"rope_theta": shape.rope_theta, "rope_type": "default"},
        "tie_word_embeddings": tied,
        "use_cache": True,
        "vocab_size": shape.vocabulary,
        **special_ids(reader),
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` readably and in a stable order."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")

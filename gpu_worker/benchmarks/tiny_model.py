"""A two-layer llama-shaped chat model made on the spot, so that trying out learning and serving needs no download.

The weights are random but seeded; the tokenizer is a byte-level BPE of about 350 tokens, so any text in any
language encodes and decodes without loss. The folder looks exactly like a real base model's folder.
"""

import json
from pathlib import Path

END_OF_TURN = "<|im_end|>"
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", END_OF_TURN)
VOCABULARY_SIZE = 384
CONTEXT_LENGTH = 512
LAYERS, HIDDEN, HEAD_SIZE, VALUE_HEADS = 2, 64, 16, 2
INITIALIZER_RANGE = 0.1
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a helpful test model<|im_end|>\\n' }}"
    "{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_MERGE_CORPUS = (
    '{"queue": "Access", "category": "Bug", "urgency": "High", "user_id": "anna@example.com"}',
    '{"queue": "Network", "category": "Question", "urgency": "Low", "user_id": null}',
    "I cannot sign in to the portal, please reset my password. The printer does not print.",
    "Не могу войти в личный кабинет, сбросьте пароль. Принтер не печатает.",
)


def make_tiny_model(path: Path, *, seed: int = 0) -> Path:
    """Write a base model folder (weights, config, tokenizer, chat template) into `path` and return `path`.

    Shape: 2 layers, hidden 64, 4 query heads, 2 key/value heads, tied embeddings, context 512. Two calls with one
    seed write equal weights. About 0.1 s.
    """
    path.mkdir(parents=True, exist_ok=True)
    _write_tokenizer(path)
    _write_weights(path, seed=seed)
    return path


def _write_tokenizer(path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_MERGE_CORPUS * 4, trainer)
    tokenizer.save(str(path / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|im_start|>",
        "eos_token": END_OF_TURN,
        "pad_token": END_OF_TURN,
        "unk_token": "<|endoftext|>",
        "model_max_length": CONTEXT_LENGTH,
        "clean_up_tokenization_spaces": False,
    }
    (path / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    (path / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


def _write_weights(path: Path, *, seed: int) -> None:
    """Write what transformers' LlamaForCausalLM would save, without importing it: that takes seconds."""
    import numpy
    from safetensors.numpy import save_file

    draw = numpy.random.default_rng(seed)

    def normal(*shape: int) -> numpy.ndarray:
        return draw.normal(scale=INITIALIZER_RANGE, size=shape).astype(numpy.float32)

    ones, values = numpy.ones(HIDDEN, dtype=numpy.float32), VALUE_HEADS * HEAD_SIZE
    weights = {"model.embed_tokens.weight": normal(VOCABULARY_SIZE, HIDDEN), "model.norm.weight": ones}
    for layer in range(LAYERS):
        shapes = {
            "self_attn.q_proj": (HIDDEN, HIDDEN),
            "self_attn.k_proj": (values, HIDDEN),
            "self_attn.v_proj": (values, HIDDEN),
            "self_attn.o_proj": (HIDDEN, HIDDEN),
            "mlp.gate_proj": (2 * HIDDEN, HIDDEN),
            "mlp.up_proj": (2 * HIDDEN, HIDDEN),
            "mlp.down_proj": (HIDDEN, 2 * HIDDEN),
        }
        for name, shape in shapes.items():
            weights[f"model.layers.{layer}.{name}.weight"] = normal(*shape)
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"model.layers.{layer}.{name}.weight"] = ones
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    ends = {"bos_token_id": 1, "eos_token_id": SPECIAL_TOKENS.index(END_OF_TURN), "pad_token_id": 2}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float32",
        "vocab_size": VOCABULARY_SIZE,
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HIDDEN // HEAD_SIZE,
        "num_key_value_heads": VALUE_HEADS,
        "head_dim": HEAD_SIZE,
        "max_position_embeddings": CONTEXT_LENGTH,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        "tie_word_embeddings": True,
        "initializer_range": INITIALIZER_RANGE,
        "use_cache": True,
        **ends,
    }
    (path / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    (path / "generation_config.json").write_text(json.dumps({**ends, "use_cache": True}, indent=2), encoding="utf-8")

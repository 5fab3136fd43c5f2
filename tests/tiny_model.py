"""A two-layer llama-shaped chat model made on the spot, so that tests of learning and serving need no download.

The weights are random but seeded; the tokenizer is a byte-level BPE of about 350 tokens, so any text in any
language encodes and decodes without loss. The folder looks exactly like a real base model's folder.
"""

import json
from pathlib import Path

END_OF_TURN = "<|im_end|>"
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", END_OF_TURN)
VOCABULARY_SIZE = 384
CONTEXT_LENGTH = 512
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
    seed write equal weights. About 0.3 s once torch and transformers are imported.
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
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    end_of_turn_id = SPECIAL_TOKENS.index(END_OF_TURN)
    config = LlamaConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_LENGTH,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        initializer_range=0.1,
        bos_token_id=SPECIAL_TOKENS.index("<|im_start|>"),
        eos_token_id=end_of_turn_id,
        pad_token_id=end_of_turn_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.save_pretrained(path)

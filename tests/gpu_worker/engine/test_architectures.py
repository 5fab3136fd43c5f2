"""The fast decoder equals transformers for each architecture it takes, and refuses what it does not know."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from datasets_app.rendering import ChatRenderer
from gpu_worker.compiled import CACHE_VARIABLE
from gpu_worker.engine.errors import UnsupportedModel
from gpu_worker.engine.model_shape import read_model_shape
from gpu_worker.engine.token_tree import token_tree
from tests.gpu_worker.engine.driver import make_driver
from tests.gpu_worker.engine.reference import Reference, make_adapter

pytestmark = pytest.mark.slow

SMALL = {
    "vocab_size": 384,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.15,
    "eos_token_id": 2,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
GEMMA = SMALL | {"head_dim": 32, "pad_token_id": 0}
NEAR = {"sliding_window": 24, "query_pre_attn_scalar": 20}
# kind → family, and what its config says
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2": ("Qwen2", SMALL | {"tie_word_embeddings": True}),
    "mistral": ("Mistral", SMALL | {"sliding_window": None, "head_dim": 16}),
    "llama3": ("Llama", SMALL | {"tie_word_embeddings": False, "rope_parameters": LLAMA3_ROPE, "head_dim": 32}),
    "qwen3": ("Qwen3", SMALL | {"tie_word_embeddings": True, "head_dim": 32}),
    "one-kv-head-each": ("Llama", SMALL | {"num_key_value_heads": 4}),
    "near": ("Mistral", SMALL | {"sliding_window": 24, "head_dim": 16}),
    "upper-layer-near": (
        "Qwen2", SMALL | {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1},
    ),
    "gemma": ("Gemma", GEMMA),
    "gemma2": ("Gemma2", GEMMA | NEAR | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),
    "gemma3": ("Gemma3", GEMMA | NEAR | {"num_hidden_layers": 3, "sliding_window_pattern": 2}),
}  # fmt: skip
FAR = "The printer does not print. " * 6


def make_model(folder: Path, tokenizer_dir: Path, kind: str, **save_options: Any) -> Path:
    import transformers

    folder.mkdir()
    family, config = MODELS[kind]
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(tokenizer_dir / name, folder / name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        settings = getattr(transformers, f"{family.replace('Gemma3', 'Gemma3Text')}Config")(**config)
        model = getattr(transformers, f"{family}ForCausalLM")(settings)
        for name, parameter in model.named_parameters():
            # initialised to zero and one, which would hide a bias or a norm that is left out
            if name.endswith(("bias", "norm.weight")):
                mean = float(name.endswith("weight") and not family.startswith("Gemma"))
                torch.nn.init.normal_(parameter, mean=mean, std=0.3)
    model.save_pretrained(folder, **save_options)
    return folder


@pytest.fixture(params=["plain", "compiled"])
def kernels(request: pytest.FixtureRequest, kernel_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both forms of the small operations."""
    if request.param == "compiled":
        if shutil.which("g++") is None:
            pytest.skip("there is no C++ compiler")
        monkeypatch.setenv(CACHE_VARIABLE, str(kernel_cache))


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("kind", MODELS)
def test_equal_to_transformers(kind: str, model_dir: Path, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model", model_dir, kind, max_shard_size="100KB")
    assert (folder / "model.safetensors.index.json").exists()
    adapter = make_adapter(folder, tmp_path / "adapter", seed=1, r=4, lora_alpha=8, target_modules="all-linear")
    renderer = ChatRenderer.load(folder)
    driver = make_driver(folder, renderer, {"a": adapter}, prefill_tokens=40)
    reference = Reference(folder, {"a": adapter})
    for number, text in enumerate(("Hello", FAR)):
        ids = renderer.prompt_ids([{"role": "user", "content": text}])
        for who in (None, "a"):
            driver.submit(f"{who} {number}", ids, who)
        answers = driver.run()
        for who in (None, "a"):
            assert answers[f"{who} {number}"].token_ids == reference.generate(ids, who, 12)
    again = driver.answer(ids, "a")
    assert again.cached_tokens > 0
    assert again.token_ids == reference.generate(ids, "a", 12)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("kind", ["llama3", "qwen3", "near", "upper-layer-near", "gemma", "gemma2", "gemma3"])
def test_logits_are_equal_to_rounding(kind: str, model_dir: Path, tmp_path: Path) -> None:
    """Greedy equality could hide a small systematic error; the numbers cannot."""
    from transformers import AutoModelForCausalLM

    from gpu_worker.engine.config import EngineConfig
    from gpu_worker.engine.decoder import DecoderRunner
    from gpu_worker.engine.runner import StepRow

    folder = make_model(tmp_path / "model", model_dir, kind)
    runner = DecoderRunner.load(folder, EngineConfig(kv_cache_bytes=2**20))
    ids = tuple(int(token) for token in torch.randint(3, 384, (150,), generator=torch.Generator().manual_seed(1)))
    table = tuple(range(1, 11))
    rows = [
        StepRow("x", ids[:100], 0, table, None, 100),
        StepRow("x", ids[100:140], 100, table, None, 40),
        *(StepRow("x", ids[place : place + 1], place, table, None, 1) for place in range(140, 145)),
        StepRow("x", ids[145:], 145, table, None, 5),
    ]
    found = torch.cat([runner.forward([row]) for row in rows])
    with torch.inference_mode():
        model = AutoModelForCausalLM.from_pretrained(folder)
        expected = model(torch.tensor([ids])).logits[0]
        assert torch.allclose(found, expected, atol=2e-4)
        # two ends of 30 tokens behind the same beginning, as a tree: longer than the window, and apart from each other
        ends = [ids[60:90], ids[90:120]]
        tree = token_tree([(*end, 0) for end in ends])
        runner.forward([StepRow("y", ids[:60], 0, table, None, 0)])
        row = StepRow("y", tree.token_ids, 60, table, None, len(tree.token_ids), parents=tree.parents)
        found = runner.forward([row])
        for path, end in zip(tree.paths, ends, strict=True):
            expected = model(torch.tensor([ids[:60] + end])).logits[0, 60:]
            assert torch.allclose(found[list(path)], expected, atol=2e-4)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"attention_bias": True}, "biased output"),
        ({"attention_bias": True, "architectures": ["Qwen3ForCausalLM"]}, "biased output"),
        ({"mlp_bias": True}, "feed-forward"),
        ({"quantization_config": {"bits": 4}}, "quantized"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "yarn"),
        ({"architectures": ["GemmaForCausalLM"], "hidden_act": "silu"}, "silu"),
        ({"architectures": ["Gemma3ForCausalLM"], "hidden_act": "gelu", "final_logit_softcapping": 30.0}, "capping"),
        ({"architectures": ["Gemma3ForCausalLM"], "hidden_act": "gelu", "attention_bias": True}, "biased output"),
        ({"architectures": ["Gemma3ForConditionalGeneration"]}, "ConditionalGeneration"),
        ({"use_bidirectional_attention": True}, "both directions"),
    ],
)
def test_what_is_not_known_is_refused(model_dir: Path, tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    config = json.loads((model_dir / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(UnsupportedModel, match=reason):
        read_model_shape(tmp_path)


def test_weights_that_do_not_fit_their_config_are_refused(model_dir: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model_dir, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 100}))
    with pytest.raises(UnsupportedModel, match="shape"):
        make_driver(folder, ChatRenderer.load(folder), {})
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(UnsupportedModel, match="no tensor"):
        make_driver(folder, ChatRenderer.load(folder), {})

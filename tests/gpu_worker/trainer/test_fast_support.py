"""The fast way is taken exactly where it computes the same, and says why where not."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from gpu_worker.compiled import CACHE_VARIABLE
from gpu_worker.trainer.fast.learner import FastLearner
from gpu_worker.trainer.fast.support import reason_against
from gpu_worker.trainer.general import GeneralLearner
from gpu_worker.trainer.learner import make_learner
from gpu_worker.trainer.rows import encode_file
from gpu_worker.trainer.spec import read_spec
from tests.gpu_worker.trainer.jobs import ticket_rows, write_job

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
# kind → what its config says besides
FAMILIES = {
    "Llama": {},
    "Llama 3": {"rope_parameters": LLAMA3_ROPE},
    "Mistral": {},
    "Qwen2": {},
    "Qwen3": {},
    "Gemma": {"hidden_act": "gelu_pytorch_tanh"},
    "Gemma3": {"query_pre_attn_scalar": 25, "sliding_window_pattern": 2, "sliding_window": 400},
}


@pytest.fixture
def spec(tmp_path, base_model):
    """A spec over a copy of the base model with another config."""

    def spec(changes=None, **chosen):
        copy = tmp_path / "model"
        shutil.copytree(base_model, copy, dirs_exist_ok=True)
        config = json.loads((base_model / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps({**config, **(changes or {})}))
        return read_spec(write_job(tmp_path / "job", copy, train=ticket_rows(4), **chosen))

    return spec


def test_llama_shapes_on_a_cpu_are_taken(spec):
    assert reason_against(spec(), device="cpu", longest_row=100) is None
    learner = make_learner(spec(), longest_row=100)
    assert isinstance(learner, FastLearner)
    assert learner.path == "fast"


@pytest.mark.parametrize(
    ("chosen", "reason"),
    [
        ({"lora_dropout": 0.1}, "dropout"),
        ({"quantization": "nf4"}, "compressed"),
        ({"precision": "bf16"}, "16-bit"),
        ({"gradient_checkpointing": True}, "checkpointing"),
        ({"path": "general"}, "asked for"),
    ],
)
def test_settings_it_does_not_have(spec, chosen, reason):
    assert reason in reason_against(spec(**chosen), device="cpu", longest_row=100)


def test_gpus_are_left_to_torch(spec):
    assert "GPU" in reason_against(spec(), device="cuda", longest_row=100)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "gpt2"}, "gpt2"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 8}}, "yarn"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8}}, "unusual"),
        ({"final_logit_softcapping": 30.0}, "caps"),
        ({"use_bidirectional_attention": True}, "ahead"),
        ({"model_type": "gemma", "hidden_act": "relu"}, "relu"),
        ({"model_type": "gemma3_text", "hidden_act": "gelu", "sliding_window": 64}, "window of 64"),
        ({"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2}}, "linear"),
        ({"quantization_config": {"bits": 4}}, "compressed"),
        ({"model_type": "mistral", "sliding_window": 64}, "window of 64"),
        ({"num_hidden_layers": 3}, "parts"),
        ({"num_hidden_layers": 1}, "parts"),
        ({"num_hidden_layers": None}, "unusual"),
        ({"tie_word_embeddings": False}, "head"),
    ],
)
def test_models_it_does_not_know(spec, changes, reason):
    assert reason in reason_against(spec(changes), device="cpu", longest_row=100)


def test_a_window_that_no_row_reaches_changes_nothing(spec):
    mistral = spec({"model_type": "mistral", "sliding_window": 64})
    assert reason_against(mistral, device="cpu", longest_row=64) is None


def test_query_norms_are_noticed_in_the_files(spec):
    ordered = spec()
    path = ordered.base_model.path / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.0.self_attn.q_norm.weight"] = tensors["model.norm.weight"].clone()
    save_file(tensors, path)
    assert "parts" in reason_against(ordered, device="cpu", longest_row=100)


@pytest.mark.slow
@pytest.mark.parametrize("family", [*FAMILIES])
@pytest.mark.parametrize("compile_kernels", [False, True])
def test_each_family_is_computed_alike(
    tmp_path, base_model, renderer, monkeypatch, kernel_cache, family, compile_kernels
):
    """Biases (Qwen2), norms of heads (Qwen3), an untied head, heads larger than hidden / heads, two files.

    Stretched positions (Llama 3); norms around, and two kinds of layers (Gemma 3).
    """
    import torch
    import transformers

    monkeypatch.setenv(CACHE_VARIABLE, str(kernel_cache))
    folder = tmp_path / "model"
    shutil.copytree(base_model, folder)
    (folder / "model.safetensors").unlink()
    config = getattr(transformers, family.partition(" ")[0].replace("Gemma3", "Gemma3Text") + "Config")(
        vocab_size=384, hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=6,
        num_key_value_heads=3, head_dim=16, tie_word_embeddings=False, eos_token_id=2, initializer_range=0.1,
        **FAMILIES[family],
    )  # fmt: skip
    torch.manual_seed(0)
    model = getattr(transformers, family.partition(" ")[0] + "ForCausalLM")(config)
    for name, tensor in model.named_parameters():
        if name.endswith(("bias", "norm.weight")):
            mean = float(name.endswith("weight") and not family.startswith("Gemma"))
            torch.nn.init.normal_(tensor, mean=mean, std=0.1)
    model.save_pretrained(folder, max_shard_size="100KB")
    assert (folder / "model.safetensors.index.json").exists()
    job = write_job(tmp_path / "job", folder, train=ticket_rows(6), compile_kernels=compile_kernels)
    ordered = read_spec(job)
    assert reason_against(ordered, device="cpu", longest_row=100) is None
    rows = encode_file(job.train_rows, renderer, ordered.hyperparameters).rows
    fast, general = FastLearner(ordered), GeneralLearner(ordered, device="cpu", why="test")
    noise = torch.randn(fast.parameters.count, generator=torch.Generator().manual_seed(5))
    fast.parameters.values.add_(0.02 * noise)
    general.parameters.load(general.parameters.values, fast.parameters.export(fast.parameters.values))
    assert fast.accumulate(rows, 0.01) == pytest.approx(general.accumulate(rows, 0.01), rel=1e-5)
    ours = fast.parameters.export(fast.parameters.gradients)
    theirs = general.parameters.export(general.parameters.gradients)
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-4) for name in ours)

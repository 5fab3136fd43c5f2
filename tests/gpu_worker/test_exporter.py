"""Exported models answer like the adapter on its base: merged safetensors, and GGUF read back."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gpu_worker.exporter.__main__ import make
from gpu_worker.exporter.errors import ExportError
from gpu_worker.exporter.gguf_file import permute
from gpu_worker.exporter.merge import merged
from gpu_worker.exporter.tensor_files import as_bytes
from gpu_worker.gguf_conversion import convert_gguf, unpermute

SHAPES = {"q_proj": (64, 64), "v_proj": (32, 64), "down_proj": (64, 128)}
PROMPT = "I cannot sign in to the portal"


@pytest.fixture
def base(tiny_model_folder: Path, tmp_path: Path) -> Path:
    """The tiny model with a tokenizer that sets digits apart, as the shipped one's does."""
    folder = tmp_path / "base"
    shutil.copytree(tiny_model_folder, folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [{"type": "Digits", "individual_digits": True}, content["pre_tokenizer"]],
    }
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter")


def write_adapter(folder: Path, **options: object) -> Path:
    folder.mkdir()
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": list(SHAPES), "bias": "none",
              "base_model_name_or_path": "tiny", "task_type": "CAUSAL_LM", **options}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    chance = np.random.default_rng(7)
    tensors = {}
    for layer in range(2):
        for module, (out, size) in SHAPES.items():
            place = "mlp" if module == "down_proj" else "self_attn"
            name = f"base_model.model.model.layers.{layer}.{place}.{module}.lora_"
            tensors[f"{name}A.weight"] = chance.normal(0, 0.2, (4, size)).astype(np.float32)
            tensors[f"{name}B.weight"] = chance.normal(0, 0.2, (out, 4)).astype(np.float32)
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def job(tmp_path: Path, base: Path, adapter: Path, **asked: object) -> Path:
    folder = tmp_path / "job"
    folder.mkdir()
    content = {"kind": "merged", "base": str(base), "adapter": str(adapter), "name": "tickets-1", "weights": "",
               "card": "# Tickets", **asked}  # fmt: skip
    (folder / "export.json").write_text(json.dumps(content))
    return folder


def logits_of_peft(base: Path, adapter: Path) -> np.ndarray:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ids = AutoTokenizer.from_pretrained(base)(PROMPT, return_tensors="pt").input_ids
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter)
    with torch.no_grad():
        return model.eval()(ids).logits[0].numpy()


def logits_of_folder(folder: Path) -> np.ndarray:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ids = AutoTokenizer.from_pretrained(folder)(PROMPT, return_tensors="pt").input_ids
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()(ids).logits[0].numpy()


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"use_rslora": True}])
def test_the_merged_model_answers_as_peft_does(tmp_path, base, options):
    adapter = write_adapter(tmp_path / "adapter", **options)
    folder = job(tmp_path, base, adapter)
    told: list[float] = []
    assert make(folder, told.append) == "tickets-1.zip"
    assert told[-1] == 1.0
    assert told == sorted(told)
    zipfile.ZipFile(folder / "tickets-1.zip").extractall(tmp_path / "out")
    out = tmp_path / "out" / "tickets-1"
    assert (out / "README.md").read_text() == "# Tickets"
    assert not (folder / "tickets-1").exists(), "only the archive is left"
    expected = logits_of_peft(base, adapter)
    assert np.abs(logits_of_folder(out) - expected).max() < 1e-4
    assert np.abs(logits_of_folder(base) - expected).max() > 0.1, "the adapter changes something"


@pytest.mark.slow
def test_a_gguf_file_read_back_answers_as_the_original(tmp_path, base, adapter):
    folder = job(tmp_path, base, adapter, kind="gguf", weights="f32")
    assert make(folder, lambda share: None) == "tickets-1-f32.gguf"
    again = tmp_path / "again"
    again.mkdir()
    convert_gguf(folder / "tickets-1-f32.gguf", again)
    model = merged(base, adapter)
    tensors = load_file(again / "model.safetensors")
    assert set(tensors) == set(model.tensors)
    for name, values in tensors.items():
        assert np.array_equal(values, model.values(name)), name
    assert np.abs(logits_of_folder(again) - logits_of_peft(base, adapter)).max() < 1e-4
    assert (again / "chat_template.jinja").read_text() == (base / "chat_template.jinja").read_text()


@pytest.mark.parametrize(("weights", "most"), [("f16", 5e-4), ("q8_0", 8e-3)])
def test_smaller_files_round_as_much_as_their_bits_say(tmp_path, base, adapter, weights, most):
    import gguf

    folder = job(tmp_path, base, adapter, kind="gguf", weights=weights)
    reader = gguf.GGUFReader(folder / make(folder, lambda share: None))
    model = merged(base, adapter)
    (found,) = [tensor for tensor in reader.tensors if tensor.name == "blk.1.ffn_down.weight"]
    values = gguf.dequantize(found.data, found.tensor_type)
    expected = model.values("model.layers.1.mlp.down_proj.weight")
    assert 0 < np.abs(values - expected).max() / np.abs(expected).max() < most
    (norm,) = [tensor for tensor in reader.tensors if tensor.name == "blk.1.attn_norm.weight"]
    assert norm.tensor_type == gguf.GGMLQuantizationType.F32


def test_the_order_of_rows_is_undone_by_reading():
    weight = np.arange(48 * 3, dtype=np.float32).reshape(48, 3)
    assert np.array_equal(unpermute(permute(weight, 4), 4), weight)
    assert not np.array_equal(permute(weight, 4), weight)


@pytest.mark.parametrize(
    ("options", "code"), [({"use_dora": True}, "not_plain_lora"), ({"rank_pattern": {"q_proj": 8}}, "not_plain_lora"),
                          ({"bias": "all"}, "not_plain_lora")],
)  # fmt: skip
def test_what_is_no_plain_lora_is_not_merged(tmp_path, base, options, code):
    with pytest.raises(ExportError) as caught:
        merged(base, write_adapter(tmp_path / "adapter", **options))
    assert caught.value.code == code


def test_an_adapter_of_another_base_is_refused(tmp_path, base, adapter):
    (base / "model.safetensors").unlink()
    save_file({"model.norm.weight": np.ones(64, np.float32)}, base / "model.safetensors")
    with pytest.raises(ExportError) as caught:
        merged(base, adapter)
    assert caught.value.code == "not_of_this_base"


def test_tokenizers_that_llama_cpp_has_no_name_for_are_refused(tmp_path, base, adapter):
    content = json.loads((base / "tokenizer.json").read_text())
    content["pre_tokenizer"] = {"type": "Whitespace"}
    (base / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ExportError) as caught:
        make(job(tmp_path, base, adapter, kind="gguf", weights="f16"), lambda share: None)
    assert caught.value.code == "gguf_tokenizer"


def test_bfloat16_is_rounded_to_the_nearest(tmp_path):
    values = np.array([1.0, 1.00390625, 1.01171875, -3.14159], np.float32)  # 1+2⁻⁸ and 1+3·2⁻⁸ are ties
    raw = np.frombuffer(as_bytes(values, "BF16"), "<u2").astype(np.uint32) << 16
    assert list(raw.view(np.float32)) == [1.0, 1.0, 1.015625, -3.140625]


@pytest.mark.slow
def test_the_program_tells_its_end_and_its_refusal(tmp_path, base, adapter):
    folder = job(tmp_path, base, adapter)
    ran = subprocess.run(
        [sys.executable, "-m", "gpu_worker.exporter", str(folder)], capture_output=True, text=True, check=True
    )
    assert json.loads(ran.stdout.splitlines()[-1]) == {"done": "tickets-1.zip"}
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "use_dora": True}))
    ran = subprocess.run([sys.executable, "-m", "gpu_worker.exporter", str(folder)], capture_output=True, text=True)
    assert ran.returncode == 1
    assert json.loads(ran.stdout.splitlines()[-1])["error"] == "not_plain_lora"

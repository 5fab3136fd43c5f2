"""What an adapter folder may hold, and the sentence with which everything else is refused."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gpu_worker.engine.errors import BadAdapter
from tests.gpu_worker.engine.driver import Driver

# The first of them waits for PEFT and transformers to be imported.
pytestmark = pytest.mark.slow
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@pytest.fixture
def folder(adapter_dirs: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(adapter_dirs["north"], tmp_path / "adapter"))


def change_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | changes))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def first_key(tensors: dict[str, torch.Tensor], part: str) -> str:
    return next(name for name in sorted(tensors) if part in name)


def test_peft_s_own_folder_is_accepted(driver: Driver, folder: Path) -> None:
    driver.core.read_adapter(folder)


@pytest.mark.parametrize("name", ["weights.bin", "hook.py", "adapter_model.pt", "notes.pkl"])
def test_other_files_are_refused(driver: Driver, folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"x")
    with pytest.raises(BadAdapter, match=r"only adapter_config\.json"):
        driver.core.read_adapter(folder)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_missing_files_are_named(driver: Driver, folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(BadAdapter, match=name):
        driver.core.read_adapter(folder)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"peft_type": "IA3"}, "Only LoRA"),
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "biases"),
        ({"r": 65}, "rank"),
        ({"r": 0}, "rank"),
        ({"r": True}, "rank"),
        ({"r": 5}, "shape"),
        ({"lora_alpha": "8"}, "lora_alpha"),
        ({"lora_alpha": 1e30}, "cannot come from training"),
        ({"target_modules": ["lm_head"]}, "lm_head"),
        ({"target_modules": ["q_proj"]}, "but adapter_model.safetensors changes"),
        ({"auto_map": {"x": "y"}}, "auto_map"),
    ],
)
def test_configurations_that_are_not_served(
    driver: Driver, folder: Path, changes: dict[str, object], sentence: str
) -> None:
    change_config(folder, **changes)
    with pytest.raises(BadAdapter, match=sentence):
        driver.core.read_adapter(folder)


def _nan(tensors: dict[str, torch.Tensor]) -> None:
    tensors[first_key(tensors, "lora_A")][0, 0] = float("nan")


def _wrong_shape(tensors: dict[str, torch.Tensor]) -> None:
    tensors[first_key(tensors, "lora_B")] = torch.zeros(7, 4)


def _half_missing(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[first_key(tensors, "lora_B")]


def _foreign_name(tensors: dict[str, torch.Tensor]) -> None:
    tensors["base_model.model.model.layers.99.mlp.up_proj.lora_A.weight"] = torch.zeros(4, 64)


def _integers(tensors: dict[str, torch.Tensor]) -> None:
    key = first_key(tensors, "lora_A")
    tensors[key] = tensors[key].to(torch.int32)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (_nan, "cannot come from training"),
        (_wrong_shape, r"shape \(7, 4\)"),
        (_half_missing, "shape None"),
        (_foreign_name, "does not belong"),
        (_integers, "floats are expected"),
        (dict.clear, "no weights"),
    ],
)
def test_weights_that_do_not_fit(
    driver: Driver, folder: Path, change: Callable[[dict[str, torch.Tensor]], None], sentence: str
) -> None:
    change_weights(folder, change)
    with pytest.raises(BadAdapter, match=sentence):
        driver.core.read_adapter(folder)


@pytest.mark.parametrize(
    "content", [b"", b"short", struct.pack("<Q", 2**40) + b"{}", struct.pack("<Q", 2) + b"{}" + b"junk", b"\x80\x04."]
)
def test_files_that_are_not_safetensors(driver: Driver, folder: Path, content: bytes) -> None:
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(BadAdapter):
        driver.core.read_adapter(folder)


def test_a_config_that_is_not_json(driver: Driver, folder: Path) -> None:
    (folder / CONFIG).write_text("{")
    with pytest.raises(BadAdapter, match="not valid JSON"):
        driver.core.read_adapter(folder)

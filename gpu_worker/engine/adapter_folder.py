"""Read and check a PEFT folder: adapter_config.json and adapter_model.safetensors, and nothing else.

Everything is checked against the base model before a tensor is used, and every refusal is a sentence. Files that can
run code when opened (pickles and the like) are refused by their mere presence.
"""

import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from experiments.problem_file import PROBLEM_FILE, Problem, read_problem
from gpu_worker.engine.errors import BadAdapter
from gpu_worker.engine.model_shape import ModelShape

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
HARMLESS_FILES = frozenset({CONFIG_FILE, WEIGHTS_FILE, PROBLEM_FILE, "README.md"})
MAX_CONFIG_BYTES = 256 * 1024
MAX_HEADER_BYTES = 4 * 2**20
MAX_WEIGHT = 1e4
"""Larger weights do not come from training; they would overflow inside a step that other tenants share."""

ATTENTION_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj")
MODULES = (*ATTENTION_MODULES, "gate_proj", "up_proj", "down_proj")
_TENSOR_NAME = re.compile(
    r"base_model\.model\.model\.layers\.(\d+)\.(?:self_attn|mlp)\.([a-z]+_proj)\.lora_([AB])\.weight"
)
_REFUSED_OPTIONS = (
    "modules_to_save", "trainable_token_indices", "target_parameters", "layer_replication", "auto_map",
    "megatron_config", "corda_config", "eva_config", "arrow_config",
)  # fmt: skip
_UNFUSED_OPTIONS = (
    "use_dora", "fan_in_fan_out", "layers_pattern", "rank_pattern", "alpha_pattern", "lora_bias", "use_qalora",
)  # fmt: skip
"""Options under which an update is more than the same-rank product that the fast decoder computes."""


@dataclass(frozen=True)
class LoraConfig:
    """The facts of adapter_config.json that serving needs."""

    rank: int
    scaling: float
    modules: frozenset[str]
    """Names of adapted projections; empty where the folder names a rule such as "all-linear"."""
    unfused_options: tuple[str, ...]
    """Options in use that only PEFT itself can serve."""


@dataclass(frozen=True)
class AdapterFolder:
    """A checked adapter folder whose weights are not read yet."""

    path: Path
    config: LoraConfig
    problem: Problem | None = None
    """What it answers, where that is not just any text."""


@dataclass(frozen=True)
class LoraPair:
    """The low-rank update of one projection, scaling included: x -> (x Aᵀ) Bᵀ.

    Shapes: a (rank, in), b (out, rank), both float32.
    """

    a: Tensor
    b: Tensor


LoraWeights = Mapping[tuple[int, str], LoraPair]
"""(layer, module name) -> update. A projection without an update is absent."""


@dataclass(frozen=True)
class LoadedAdapter:
    """An adapter that is ready to be served. A runner that reads the folder by itself needs no weights here."""

    folder: AdapterFolder
    weights: LoraWeights


def open_adapter(path: Path, *, max_rank: int) -> AdapterFolder:
    """Check the files and the configuration of an adapter folder. Raises: BadAdapter."""
    if not path.is_dir():
        raise BadAdapter("The adapter folder does not exist.")
    for entry in path.iterdir():
        if entry.name not in HARMLESS_FILES or not entry.is_file():
            raise BadAdapter(
                f"The adapter folder holds {entry.name!r}; only {CONFIG_FILE} and {WEIGHTS_FILE} are allowed."
            )
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (path / name).is_file():
            raise BadAdapter(f"The adapter folder has no {name}.")
    try:
        problem = read_problem(path)
    except ValueError as error:
        raise BadAdapter(f"The adapter cannot be served: {error}.") from error
    return AdapterFolder(path, _read_config(path / CONFIG_FILE, max_rank=max_rank), problem)


def _read_config(path: Path, *, max_rank: int) -> LoraConfig:
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise BadAdapter(f"{CONFIG_FILE} is larger than {MAX_CONFIG_BYTES} bytes.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadAdapter(f"{CONFIG_FILE} is not valid JSON.") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise BadAdapter("Only LoRA adapters can be served.")
    for option in _REFUSED_OPTIONS:
        if config.get(option):
            raise _unserved_option(option)
    if config.get("bias", "none") != "none":
        raise BadAdapter("The adapter trains biases, which this engine does not serve.")
    rank = config.get("r")
    if type(rank) is not int or not 1 <= rank <= max_rank:
        raise BadAdapter(f"The adapter's rank must be a whole number from 1 to {max_rank}, not {rank!r}.")
    modules = _target_modules(config.get("target_modules"))
    return LoraConfig(
        rank, _scaling(config, rank), modules, tuple(name for name in _UNFUSED_OPTIONS if config.get(name))
    )


def _unserved_option(option: str) -> BadAdapter:
    return BadAdapter(f"The adapter uses the option {option!r}, which this engine does not serve.")


def _scaling(config: dict[str, Any], rank: int) -> float:
    alpha = config.get("lora_alpha")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise BadAdapter("The adapter's lora_alpha must be a number.")
    # rank-stabilised LoRA, Kalajdzievski 2023, arXiv:2312.03732
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def _target_modules(targets: object) -> frozenset[str]:
    if isinstance(targets, str):
        return frozenset()
    if not isinstance(targets, list) or not targets:
        raise BadAdapter("The adapter names no target modules.")
    # PEFT writes plain names, or full paths ("model.layers.0.mlp.up_proj") when it resolved a rule
    return frozenset(str(target).rpartition(".")[2] for target in targets)


def read_lora_weights(folder: AdapterFolder, shape: ModelShape) -> LoraWeights:
    """Read the weights and check every tensor against the base model. Raises: BadAdapter."""
    if folder.config.unfused_options:
        raise _unserved_option(folder.config.unfused_options[0])
    unknown = sorted(folder.config.modules.difference(MODULES))
    if unknown:
        raise BadAdapter(f"The adapter changes {', '.join(unknown)}; this engine serves {', '.join(MODULES)}.")
    _check_header_size(folder.path / WEIGHTS_FILE)
    try:
        tensors = load_file(folder.path / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise BadAdapter(f"{WEIGHTS_FILE} is not a valid safetensors file.") from error
    halves: dict[tuple[int, str], dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        layer, module, side = _parse_name(name, shape)
        halves.setdefault((layer, module), {})[side] = _checked(name, tensor)
    if not halves:
        raise BadAdapter("The adapter has no weights.")
    _check_targets(halves, folder.config)
    return {key: _pair(key, sides, folder.config, shape) for key, sides in halves.items()}


def _check_header_size(path: Path) -> None:
    with path.open("rb") as file:
        prefix = file.read(8)
    if len(prefix) < 8 or struct.unpack("<Q", prefix)[0] > MAX_HEADER_BYTES:
        raise BadAdapter(f"{WEIGHTS_FILE} has no header, or one larger than {MAX_HEADER_BYTES} bytes.")


def _parse_name(name: str, shape: ModelShape) -> tuple[int, str, str]:
    match = _TENSOR_NAME.fullmatch(name)
    if match is None or match[2] not in MODULES or int(match[1]) >= shape.layers:
        raise BadAdapter(f"The adapter's tensor {name[:120]!r} does not belong to this base model.")
    return int(match[1]), match[2], match[3]


def _checked(name: str, tensor: Tensor) -> Tensor:
    if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise BadAdapter(f"The adapter's tensor {name!r} has the type {tensor.dtype}; floats are expected.")
    return tensor.float()


def _check_targets(found: Mapping[tuple[int, str], object], config: LoraConfig) -> None:
    modules = {module for _, module in found}
    if config.modules and modules != config.modules:
        raise BadAdapter(
            f"{CONFIG_FILE} names {', '.join(sorted(config.modules))}, "
            f"but {WEIGHTS_FILE} changes {', '.join(sorted(modules))}."
        )


def _pair(key: tuple[int, str], sides: Mapping[str, Tensor], config: LoraConfig, shape: ModelShape) -> LoraPair:
    width_in, width_out = projection_widths(shape)[key[1]]
    expected = {"A": (config.rank, width_in), "B": (width_out, config.rank)}
    for side, dimensions in expected.items():
        found = tuple(sides[side].shape) if side in sides else None
        if found != dimensions:
            raise BadAdapter(
                f"The adapter's {key[1]} in layer {key[0]} has lora_{side} of shape {found}; "
                f"this base model needs {dimensions}."
            )
    name = f"{key[1]} in layer {key[0]}"
    return LoraPair(_bounded(name, sides["A"]), _bounded(name, sides["B"] * config.scaling))


def _bounded(name: str, tensor: Tensor) -> Tensor:
    # every comparison with NaN is false, so one reduction finds what is too large, infinite or not a number
    if not bool(tensor.abs().amax() <= MAX_WEIGHT):
        raise BadAdapter(f"The adapter's {name} holds numbers that cannot come from training.")
    return tensor


def projection_widths(shape: ModelShape) -> dict[str, tuple[int, int]]:
    """Return (in, out) features of every projection that an adapter may change."""
    return {
        "q_proj": (shape.hidden, shape.query_width),
        "k_proj": (shape.hidden, shape.kv_width),
        "v_proj": (shape.hidden, shape.kv_width),
        "o_proj": (shape.query_width, shape.hidden),
        "gate_proj": (shape.hidden, shape.intermediate),
        "up_proj": (shape.hidden, shape.intermediate),
        "down_proj": (shape.intermediate, shape.hidden),
    }

"""The merged model: every adapted weight plus its update, W + s·B·A, everything else as it is.

Source: Hu et al. 2021, arXiv:2106.09685, section 4.1; the scaling as in PEFT: alpha / r, or alpha / √r with rsLoRA
(Kalajdzievski 2023, arXiv:2312.03732).
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpu_worker.exporter.errors import ExportError
from gpu_worker.exporter.tensor_files import Array, Place, places, write

_PAIR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<half>[AB])\.weight")
# Under these an adapter is more than products of two matrices of one rank.
_NOT_A_PLAIN_PRODUCT = (
    "use_dora", "modules_to_save", "rank_pattern", "alpha_pattern", "fan_in_fan_out", "lora_bias", "use_qalora",
    "trainable_token_indices", "target_parameters", "layer_replication",
)  # fmt: skip
# What a folder needs besides its weights to be loaded by others.
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "vocab.json",
    "merges.txt", "tokenizer.model", "added_tokens.json", "generation_config.json",
)  # fmt: skip


@dataclass(frozen=True)
class Update:
    """The update of one weight. Shapes: a (r, in), b (out, r)."""

    a: Place
    b: Place
    scaling: float

    def delta(self) -> Array:
        """Return s·B·A, shape (out, in)."""
        product: Array = (self.b.read() @ self.a.read()) * np.float32(self.scaling)
        return product


@dataclass(frozen=True)
class Merged:
    """A base model with an adapter laid over it; values are computed when they are asked for."""

    base: Path
    tensors: dict[str, Place]
    updates: dict[str, Update]

    def values(self, name: str) -> Array:
        """Return the merged values of one tensor, float32."""
        values = self.tensors[name].read()
        update = self.updates.get(name)
        return values + update.delta() if update is not None else values


def merged(base: Path, adapter: Path) -> Merged:
    """Return the model that a base model and an adapter make. Raises: ExportError for what is not a plain LoRA."""
    tensors = places(base)
    return Merged(base, tensors, _updates(adapter, tensors))


def _updates(adapter: Path, tensors: dict[str, Place]) -> dict[str, Update]:
    config: dict[str, Any] = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    for option in _NOT_A_PLAIN_PRODUCT:
        if config.get(option):
            raise ExportError(
                "not_plain_lora", f"The adapter uses {option}, so it cannot be merged. Download it as it is."
            )
    if config.get("peft_type") != "LORA" or config.get("bias", "none") != "none":
        raise ExportError("not_plain_lora", "Only plain LoRA adapters can be merged. Download it as it is.")
    rank = int(config["r"])
    scaling = float(config["lora_alpha"]) / (math.sqrt(rank) if config.get("use_rslora") else rank)
    halves: dict[str, dict[str, Place]] = {}
    for name, place in places(adapter, "adapter_model.safetensors").items():
        found = _PAIR.fullmatch(name)
        if found is None:
            raise ExportError("not_plain_lora", f"The adapter holds {name}, which cannot be merged.")
        halves.setdefault(f"{found['module']}.weight", {})[found["half"]] = place
    for name, pair in halves.items():
        if set(pair) != {"A", "B"} or name not in tensors:
            raise ExportError("not_of_this_base", f"The adapter changes {name}, which the base model does not have.")
        if tensors[name].shape != (pair["B"].shape[0], pair["A"].shape[1]):
            raise ExportError("not_of_this_base", f"The adapter's {name} has another shape than the base model's.")
    return {name: Update(pair["A"], pair["B"], scaling) for name, pair in halves.items()}


def write_folder(model: Merged, target: Path, *, done: Callable[[float], None]) -> None:
    """Write the merged model as a folder that transformers and every other tool loads."""
    target.mkdir(parents=True)
    for name in TOKENIZER_FILES:
        if (model.base / name).is_file():
            shutil.copyfile(model.base / name, target / name)
    shutil.copyfile(model.base / "config.json", target / "config.json")
    write(target / "model.safetensors", model.tensors, model.values, done=done)

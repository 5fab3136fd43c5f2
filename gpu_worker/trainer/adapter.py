"""The result of a run: a folder that PEFT, and whoever reads PEFT's format, can load."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from experiments.hyperparameters import Hyperparameters
from experiments.problem_file import PROBLEM_FILE, Problem
from gpu_worker.trainer.storage import publish_folder

PREFIX = "base_model.model."  # PEFT's wrapper, part of every tensor's name in its files


def saved_name(parameter_name: str) -> str:
    """Return the name that PEFT's files use for a parameter of a PEFT model (without the adapter's own name)."""
    if parameter_name.endswith(".lora_magnitude_vector.default.weight"):  # DoRA's, saved without "weight"
        return parameter_name.removesuffix(".default.weight")
    return parameter_name.replace(".default.", ".")


def write_adapter(
    folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, object], problem: Problem | None = None
) -> None:
    """Write `adapter_model.safetensors` and `adapter_config.json` in one durable step.

    `problem`: what it answers, where that is not just any text.

    Raises: TrainingError (disk_full).
    """

    def write(aside: Path) -> None:
        save_file(dict(tensors), str(aside / "adapter_model.safetensors"), metadata={"format": "pt"})
        content = json.dumps(config, indent=2, sort_keys=True, default=str)
        (aside / "adapter_config.json").write_text(content + "\n", encoding="utf-8")
        if problem is not None:
            (aside / PROBLEM_FILE).write_text(problem.to_json(), encoding="utf-8")

    publish_folder(folder, write)


def peft_alpha(alpha: float) -> Any:
    """Return alpha as PEFT declares it, a whole number, where it is one; fractions work there too."""
    return int(alpha) if alpha == int(alpha) else alpha


def lora_scale(chosen: Hyperparameters) -> float:
    """Return by how much an adapter's product is multiplied.

    Rank-stabilised: Kalajdzievski 2023, arXiv:2312.03732.
    """
    return chosen.lora_alpha / (math.sqrt(chosen.lora_r) if chosen.rslora else chosen.lora_r)


def lora_config(
    *, base_model: str, rank: int, alpha: float, dropout: float, target_modules: list[str], rslora: bool = False
) -> dict[str, object]:
    """Return the part of PEFT's LoRA configuration that is not default, for adapters made without peft."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": rank,
        "lora_alpha": peft_alpha(alpha),
        "lora_dropout": dropout,
        "use_rslora": rslora,
        "target_modules": sorted(target_modules),
        "bias": "none",
        "inference_mode": True,
    }

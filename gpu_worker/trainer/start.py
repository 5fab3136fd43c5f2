"""Starting from the adapter of an earlier run instead of from a fresh one."""

import json
import math
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from experiments.hyperparameters import Hyperparameters
from gpu_worker.trainer.adapter import lora_scale
from gpu_worker.trainer.errors import TrainingError
from gpu_worker.trainer.parameters import AdapterParameters


def take_up(folder: Path, parameters: AdapterParameters, chosen: Hyperparameters) -> None:
    """Put the adapter in `folder` in place of the fresh one; the model then answers exactly as it did with it.

    Alpha may differ: B is scaled so that the product stays what it was.
    Raises: TrainingError (bad_settings) if it has another shape or cannot be read.
    """
    try:
        config: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        tensors = load_file(str(folder / "adapter_model.safetensors"))
        root = math.sqrt(config["r"]) if config.get("use_rslora") else config["r"]
        ratio = config["lora_alpha"] / root / lora_scale(chosen)
        if {slot.name for slot in parameters.slots} != set(tensors) or chosen.training_kind != "lora":
            raise ValueError("other layers")
        scaled = {name: t.float() * ratio if ".lora_B." in name else t.float() for name, t in tensors.items()}
        parameters.load(parameters.values, scaled)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise TrainingError(
            "bad_settings",
            "The adapter to continue from does not fit these settings. Choose the rank, the adapted layers and the "
            "kind of adapter that the earlier run had.",
        ) from error

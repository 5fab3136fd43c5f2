"""A base model that is divided among the processes that train together, layer by layer: torch's FSDP2.

Each process keeps a part of every frozen layer and fetches the rest just before it is needed, in the forward and in the
backward pass. The adapter is small and stays whole in each of them, so gradients are summed, checkpoints written and
results kept as without. Embeddings, head and norms stay whole, too. Source: Zhao et al. 2023, arXiv:2304.11277.
"""

from pathlib import Path
from typing import Any

import torch
from torch import distributed

from gpu_worker.trainer.errors import TrainingError
from gpu_worker.trainer.spec import TrainSpec

# Of a GPU's memory, what a whole base model may take before it is divided; the rest is for activations.
SHARE_FOR_A_WHOLE_MODEL = 0.5


def processes() -> int:
    """Return how many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def divides(spec: TrainSpec, device: str) -> bool:
    """Tell whether this run divides its base model: where that was chosen, or a GPU is too small for all of it.

    Raises: TrainingError (bad_settings) where it was chosen and cannot be.
    """
    chosen = spec.hyperparameters
    if processes() == 1 or chosen.divide_base_model == "no":
        return False
    whole_only = _reason_against(spec)
    if chosen.divide_base_model == "yes":
        if whole_only:
            raise TrainingError(
                "bad_settings",
                f"The base model cannot be divided among processes: {whole_only}. Change that, or divide nothing.",
            )
        return True
    if whole_only or device != "cuda":
        return False
    return _file_bytes(spec.base_model.path) > SHARE_FOR_A_WHOLE_MODEL * torch.cuda.mem_get_info()[1]


def divide(model: Any, causal_lm: Any, device: str) -> None:
    """Divide every decoder layer's frozen weights; what is trained stays whole, on `device`.

    Layers are divided one by one and the model around them is not, because its parts are called one by one, too.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device, (processes(),))
    trained = {parameter for parameter in model.parameters() if parameter.requires_grad}
    for layer in causal_lm.get_decoder().layers:
        fully_shard(layer, mesh=mesh, ignored_params=trained)
    for tensor in (*trained, *_outside_of_layers(causal_lm)):
        tensor.data = tensor.data.to(device)


def _outside_of_layers(causal_lm: Any) -> list[torch.Tensor]:
    inside = {id(tensor) for layer in causal_lm.get_decoder().layers for tensor in _tensors(layer)}
    return [tensor for tensor in _tensors(causal_lm) if id(tensor) not in inside]


def _tensors(module: Any) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]


def _reason_against(spec: TrainSpec) -> str | None:
    chosen = spec.hyperparameters
    if chosen.training_kind != "lora":
        return "all layers are trained"
    if chosen.quantization != "none":
        return "it is compressed"
    if chosen.dora:
        return "DoRA measures whole weights"
    return None


def _file_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))

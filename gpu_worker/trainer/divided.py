"""A base model that is divided among the processes that train together, layer by layer: torch's FSDP2.

Each process keeps a part of every frozen layer and fetches the rest just before it is needed, in the forward and in the
backward pass. The adapter is small and stays whole in each of them, so gradients are summed, checkpoints written and
results kept as without. Embeddings, head and norms stay whole, too. Source: Zhao et al. 2023, arXiv:2304.11277.
"""

from pathlib import Path
from typing import Any

import torch
from torch import distributed

from experiments.paths import contradiction, reason_against_dividing
from gpu_worker.trainer.errors import TrainingError
from gpu_worker.trainer.in_step import InStep
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
    if chosen.divide_base_model == "yes":
        if against := contradiction(chosen):
            raise TrainingError("bad_settings", against.sentence)
        return True
    if reason_against_dividing(chosen) or device != "cuda":
        return False
    return _file_bytes(spec.base_model.path) > SHARE_FOR_A_WHOLE_MODEL * torch.cuda.mem_get_info()[1]


def divide(model: Any, causal_lm: Any, device: str) -> InStep:
    """Divide every decoder layer's frozen weights; what is trained stays whole, on `device`.

    Returns what computes a micro-batch so that no process leaves the others waiting.
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
    return InStep(causal_lm.get_decoder().layers)


def _outside_of_layers(causal_lm: Any) -> list[torch.Tensor]:
    inside = {id(tensor) for layer in causal_lm.get_decoder().layers for tensor in _tensors(layer)}
    return [tensor for tensor in _tensors(causal_lm) if id(tensor) not in inside]


def _tensors(module: Any) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]


def _file_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))

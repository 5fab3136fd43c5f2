"""Put an engine together from a base model folder."""

import logging
from pathlib import Path

import torch

from datasets_app.rendering import ChatRenderer
from gpu_worker.engine.config import EngineConfig
from gpu_worker.engine.core import EngineCore
from gpu_worker.engine.decoder import DecoderRunner

logger = logging.getLogger(__name__)


def default_device() -> torch.device:
    """Return the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def build_core(
    model_dir: Path,
    renderer: ChatRenderer,
    config: EngineConfig,
    *,
    device: torch.device | None = None,
) -> EngineCore:
    """Return an engine on the fast decoder. Raises: UnsupportedModel if the base model is not llama-shaped."""
    runner = DecoderRunner.load(model_dir, config, device=device or default_device())
    return EngineCore(runner, config, blocks=runner.blocks, eos_ids=renderer.eos_ids)

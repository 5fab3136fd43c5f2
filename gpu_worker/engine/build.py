"""Put an engine together from a base model folder: the fast decoder where it is right, transformers where it is not."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from datasets_app.rendering import ChatRenderer
from gpu_worker.engine.config import EngineConfig
from gpu_worker.engine.core import CheckResult, EngineCore
from gpu_worker.engine.decoder import DecoderRunner
from gpu_worker.engine.errors import UnsupportedModel
from gpu_worker.engine.memory import return_freed_memory
from gpu_worker.engine.model_shape import read_model_shape
from gpu_worker.engine.self_check import MADE_UP_RANKS, SelfCheck

logger = logging.getLogger(__name__)

RunnerKind = Literal["auto", "decoder", "transformers"]
WHOLE_PROMPTS = 2**31
"""Prefill budget under which no prompt is cut: not every architecture continues a prompt from its cache."""


class _DifferentAnswers(UnsupportedModel):
    """The fast decoder can serve the model, but not as transformers does."""


def default_device() -> torch.device:
    """Return the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def build_core(
    model_dir: Path,
    renderer: ChatRenderer,
    config: EngineConfig,
    *,
    kind: RunnerKind = "auto",
    device: torch.device | None = None,
    state_dir: Path | None = None,
) -> EngineCore:
    """Return an engine for a base model.

    With `state_dir` the fast decoder has to agree with transformers first. "auto" falls back to transformers where the
    decoder does not fit or does not agree. Raises: UnsupportedModel if the asked-for runner cannot serve the model.
    """
    device = device or default_device()
    if kind == "transformers":
        return _general_core(model_dir, renderer, config, device)
    try:
        core = _checked_decoder_core(model_dir, renderer, config, device, state_dir)
    except UnsupportedModel as reason:
        if kind == "decoder":
            raise
        logger.warning("serving with the slower general runner: %s", reason)
        core = _general_core(model_dir, renderer, config, device)
        core.self_check = "failed" if isinstance(reason, _DifferentAnswers) else "none"
        return core
    logger.info("serving with the fast decoder on %s", device)
    return core


def _checked_decoder_core(
    model_dir: Path, renderer: ChatRenderer, config: EngineConfig, device: torch.device, state_dir: Path | None
) -> EngineCore:
    # a model that the decoder cannot serve ends here, before a reference is computed that nobody will ask for
    read_model_shape(model_dir)
    check = None
    if state_dir is not None and config.lora_rank_budget >= sum(MADE_UP_RANKS.values()):
        check = SelfCheck(model_dir, state_dir, weights=config.weights)
        check.start()
    runner = DecoderRunner.load(model_dir, config, device=device)
    return_freed_memory()
    core = EngineCore(runner, config, blocks=runner.blocks, eos_ids=renderer.eos_ids)
    if check is not None:
        core.self_check = _checked(check, runner, renderer, config)
    return core


def _checked(check: SelfCheck, runner: DecoderRunner, renderer: ChatRenderer, config: EngineConfig) -> CheckResult:
    """Return what the comparison says. Raises: _DifferentAnswers."""
    # a core of its own: its adapters always find room, and its counts are not those of requests
    config = replace(
        config,
        max_adapters=len(MADE_UP_RANKS),
        max_known_adapters=len(MADE_UP_RANKS),
        max_lora_rank=max(MADE_UP_RANKS.values()),
    )
    result = check.run(EngineCore(runner, config, blocks=runner.blocks, eos_ids=renderer.eos_ids), renderer)
    if result == "failed":
        raise _DifferentAnswers("its answers differ from those of transformers")
    return result


def _general_core(model_dir: Path, renderer: ChatRenderer, config: EngineConfig, device: torch.device) -> EngineCore:
    # imported here: transformers costs seconds and memory that the fast decoder does without
    from gpu_worker.engine.transformers_runner import TransformersRunner

    runner = TransformersRunner.load(model_dir, device=device)
    config = replace(config, prefill_tokens=WHOLE_PROMPTS)
    blocks = runner.blocks_for(config.kv_cache_bytes)
    return EngineCore(runner, config, blocks=blocks, eos_ids=renderer.eos_ids)

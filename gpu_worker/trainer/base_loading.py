"""The frozen base model of the general way: local safetensors files, in the number format and compression chosen."""

from typing import Any

import torch

from gpu_worker.trainer.learner import unusable_base_model
from gpu_worker.trainer.spec import TrainSpec

FLASH = "flash_attention_2"


def load_base(spec: TrainSpec, *, device: str, bf16: bool) -> Any:
    """Return the base model on its device, never with code from its folder. Raises: TrainingError (bad_base_model)."""
    options: dict[str, Any] = {}
    quantization = _quantization(spec.hyperparameters.quantization, bf16=bf16)
    if quantization is not None:
        options = {"quantization_config": quantization, "device_map": {"": device}}
    model = _loaded(spec, options | attention_option(device=device, bf16=bf16), bf16=bf16)
    model.requires_grad_(False)
    return model if quantization is not None else model.to(device)


def attention_option(*, device: str, bf16: bool) -> dict[str, str]:
    """Ask for flash attention where its package is installed and fits; else transformers chooses, mostly SDPA."""
    from transformers.utils.import_utils import is_flash_attn_2_available

    return {"attn_implementation": FLASH} if device == "cuda" and bf16 and is_flash_attn_2_available() else {}


def _loaded(spec: TrainSpec, options: dict[str, Any], *, bf16: bool) -> Any:
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_pretrained(
            spec.base_model.path,
            dtype=torch.bfloat16 if bf16 else torch.float32,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            **options,
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        if "attn_implementation" in options:  # not every architecture has it
            return _loaded(spec, {k: v for k, v in options.items() if k != "attn_implementation"}, bf16=bf16)
        raise unusable_base_model(f"loading it failed with {type(error).__name__}") from error


def _quantization(kind: str, *, bf16: bool) -> Any:
    """Return the bitsandbytes settings for the frozen weights, None for none.

    nf4 with double quantization is QLoRA: Dettmers et al. 2023, arXiv:2305.14314.
    """
    if kind == "none":
        return None
    from transformers import BitsAndBytesConfig

    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)  # type: ignore[no-untyped-call]
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if bf16 else torch.float32,
    )

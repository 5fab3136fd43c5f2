"""What the engine must equal: transformers' own generate, with PEFT's own adapters."""

from pathlib import Path
from typing import Any

import torch

# transformers and PEFT are imported late: collecting the tests should not take seconds.


def make_adapter(model_dir: Path, path: Path, *, seed: int, scale: float = 0.15, **options: Any) -> Path:
    """Write a random adapter as PEFT writes it. Both halves are random, so that it changes the model."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = get_peft_model(AutoModelForCausalLM.from_pretrained(model_dir), LoraConfig(**options))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    model.save_pretrained(path)
    return path


class Reference:
    """Greedy answers of transformers and PEFT, one prompt at a time."""

    def __init__(self, model_dir: Path, adapters: dict[str, Path]) -> None:
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        base = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
        names = list(adapters)
        self._model = PeftModel.from_pretrained(base, adapters[names[0]], adapter_name=names[0])
        for name in names[1:]:
            self._model.load_adapter(adapters[name], adapter_name=name)
        self._model.eval()
        self._known: dict[tuple[tuple[int, ...], str | None, int], list[int]] = {}

    def generate(self, prompt_ids: list[int], adapter: str | None, max_new_tokens: int) -> list[int]:
        """Return the new token ids; asked again, the same ones without work."""
        key = (tuple(prompt_ids), adapter, max_new_tokens)
        if key not in self._known:
            self._known[key] = self._generate_with(prompt_ids, adapter, max_new_tokens)
        return self._known[key]

    def _generate_with(self, prompt_ids: list[int], adapter: str | None, max_new_tokens: int) -> list[int]:
        if adapter is None:
            with self._model.disable_adapter():
                return self._generate(prompt_ids, max_new_tokens)
        self._model.set_adapter(adapter)
        return self._generate(prompt_ids, max_new_tokens)

    def _generate(self, prompt_ids: list[int], max_new_tokens: int) -> list[int]:
        ids = torch.tensor([prompt_ids])
        with torch.inference_mode():
            out = self._model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=max_new_tokens,
                do_sample=False,
            )
        return [int(token) for token in out[0, len(prompt_ids) :]]

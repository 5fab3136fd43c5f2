"""What of a transformers model is trained, and how the result is written as a plain LoRA adapter.

Adapters that start from the base model (PiSSA, OLoRA) and full fine-tuning change the base model itself. What is
kept is always the difference from the published base model, as an adapter that any reader of PEFT's format can load.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from experiments.hyperparameters import BASE_MODEL_STARTS, MOST_SERVED_RANK, OWN_TARGETS, Hyperparameters
from experiments.paths import too_many_frozen
from gpu_worker.trainer.adapter import PREFIX, lora_config, lora_scale, peft_alpha
from gpu_worker.trainer.errors import TrainingError
from gpu_worker.trainer.learner import require_layers, unusable_base_model
from gpu_worker.trainer.spec import TrainSpec

Tensors = dict[str, Tensor]
_IN_A_LAYER = re.compile(r"\.\d+\.")  # layers are numbered; the head is not inside of one


# --- adapters ----------------------------------------------------------------------------------------------------


def with_adapter(model: Any, spec: TrainSpec) -> Any:
    """Return the model with PEFT's LoRA layers in float32 on the chosen linear layers.

    Raises: TrainingError (bad_base_model, bad_settings).
    """
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    chosen = spec.hyperparameters
    if chosen.quantization != "none":
        prepare: Any = prepare_model_for_kbit_training
        model = prepare(model, use_gradient_checkpointing=chosen.gradient_checkpointing)
    elif chosen.gradient_checkpointing:
        use_checkpointing(model)
    layers = trained_layers(model, chosen)
    config = LoraConfig(
        r=chosen.lora_r,
        lora_alpha=peft_alpha(chosen.lora_alpha),
        lora_dropout=chosen.lora_dropout,
        target_modules=_targets(model, chosen),
        layers_to_transform=layers if chosen.frozen_layers else None,
        use_dora=chosen.dora,
        use_rslora=chosen.rslora,
        init_lora_weights=chosen.lora_init if chosen.lora_init in BASE_MODEL_STARTS else True,  # type: ignore[arg-type]
        bias="none",
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(model, config)
    # PEFT fills in the folder it was loaded from; a path of this machine means nothing to whoever gets the adapter.
    adapted.peft_config["default"].base_model_name_or_path = spec.base_model.slug
    return adapted


def use_checkpointing(model: Any) -> None:
    """Let the model compute its layers again in the backward pass instead of remembering them."""
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()


def trained_layers(model: Any, chosen: Hyperparameters) -> list[int]:
    """Return the numbers of the layers that are trained. Raises: TrainingError (bad_settings) if none is left."""
    count = int(model.config.get_text_config().num_hidden_layers)
    if against := too_many_frozen(chosen, count):
        raise TrainingError("bad_settings", against.sentence)
    return list(range(chosen.frozen_layers, count))


def _targets(model: Any, chosen: Hyperparameters) -> list[str] | str:
    """Return which layers get an adapter, in PEFT's terms: names of linear layers, or all of them but the head."""
    choice = chosen.lora_targets
    if choice == "all-linear" and not chosen.frozen_layers:
        return "all-linear"
    names = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    if choice == OWN_TARGETS:
        require_layers(chosen.target_names, {name.rsplit(".", 1)[-1] for name in names if _IN_A_LAYER.search(name)})
        return list(chosen.target_names)
    # Layers are numbered; the head is not inside of one.
    parts = {"all-linear": (".0.",), "mlp": ("mlp", "feed_forward", "ffn")}.get(choice, ("attn", "attention"))
    inside = {name.rsplit(".", 1)[-1] for name in names if any(part in name for part in parts)}
    if choice == "query-value":
        # Families that compute query, key and value in one layer have no narrower choice than that layer.
        inside = {name for name in inside if name in ("q_proj", "v_proj", "query", "value") or "qkv" in name} or inside
    if not inside:
        raise unusable_base_model("the layers to adapt have unknown names; choose all linear layers")
    return sorted(inside)


class PlainOutcome:
    """The trained tensors are the adapter."""

    def __init__(self, model: Any) -> None:
        self._peft: Any = model.peft_config["default"]

    def tensors(self, trained: Mapping[str, Tensor]) -> Tensors:
        """Return them as they are."""
        return dict(trained)

    def config(self) -> dict[str, object]:
        """Return PEFT's own settings."""
        self._peft.inference_mode = True
        content: dict[str, object] = self._peft.to_dict()
        # PEFT sometimes lists whole paths; other engines expect the layers' own names.
        content["target_modules"] = sorted({path.rsplit(".", 1)[-1] for path in self._peft.target_modules})
        return content

    def remark(self) -> str:
        """Nothing special."""
        return ""


class MovedOutcome(PlainOutcome):
    """For a start that moved s·B₀A₀ out of the base model: the difference s·(BA - B₀A₀) is [B, -B₀] · [A; A₀].

    Source: Meng et al. 2024, arXiv:2404.02948, appendix C.
    """

    def __init__(self, model: Any, start: Mapping[str, Tensor], chosen: Hyperparameters) -> None:
        """`start`: the adapter before the first step."""
        super().__init__(model)
        self._start = dict(start)
        self._chosen = chosen

    def tensors(self, trained: Mapping[str, Tensor]) -> Tensors:
        """Return the adapter of twice the rank."""
        kept: Tensors = {}
        for name, tensor in trained.items():
            if ".lora_A." in name:
                kept[name] = torch.cat((tensor, self._start[name]), 0)
            else:
                kept[name] = torch.cat((tensor, -self._start[name]), 1)
        return kept

    def config(self) -> dict[str, object]:
        """Return settings under which a plain reader gives the same scale."""
        rank = 2 * self._chosen.lora_r
        scale = lora_scale(self._chosen)
        changed = {"r": rank, "lora_alpha": peft_alpha(scale * rank), "use_rslora": False, "init_lora_weights": True}
        return super().config() | changed

    def remark(self) -> str:
        """Say where the doubled rank comes from."""
        return f"The adapter is kept as the difference from the base model, of rank {2 * self._chosen.lora_r}."


# --- all layers --------------------------------------------------------------------------------------------------


def free_linear_layers(model: Any, chosen: Hyperparameters) -> None:
    """Make the linear layers of the trained decoder layers trainable, in float32, and nothing else.

    Embeddings, norms and the head stay: what is learned can then be kept as an adapter.
    Raises: TrainingError (bad_base_model, bad_settings).
    """
    if chosen.gradient_checkpointing:
        use_checkpointing(model)
    wanted = {str(number) for number in trained_layers(model, chosen)}
    found = 0
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and wanted.intersection(name.split(".")[:-1]):
            module.weight.data = module.weight.data.float()
            module.weight.requires_grad_(True)
            found += 1
    if not found:
        raise unusable_base_model("its linear layers have unknown names; train an adapter instead")


class FactoredOutcome:
    """For full fine-tuning: each layer's difference, as the product of two thin matrices that is nearest to it.

    By the theorem of Eckart and Young the first singular vectors give the nearest one; `remark` tells how near.
    """

    def __init__(self, start: Mapping[str, Tensor], base_model: str) -> None:
        """`start`: the trained tensors as the base model has them."""
        self._start = dict(start)
        self._base_model = base_model
        self._kept = self._whole = 0.0

    def tensors(self, trained: Mapping[str, Tensor]) -> Tensors:
        """Return A and B of every layer."""
        factors: Tensors = {}
        self._kept = self._whole = 0.0
        for name, tensor in trained.items():
            module = name.removesuffix(".weight")
            up, down = self._factors(tensor - self._start[name])
            factors[f"{PREFIX}{module}.lora_A.weight"], factors[f"{PREFIX}{module}.lora_B.weight"] = down, up
        return factors

    def config(self) -> dict[str, object]:
        """Return the settings of an adapter with scale 1."""
        modules = sorted({name.removesuffix(".weight").rsplit(".", 1)[-1] for name in self._start})
        layers = {int(part) for name in self._start for part in name.split(".") if part.isdigit()}
        rank = MOST_SERVED_RANK
        config = lora_config(base_model=self._base_model, rank=rank, alpha=rank, dropout=0.0, target_modules=modules)
        return config | {"layers_to_transform": sorted(layers)}

    def remark(self) -> str:
        """Say how much of the learned difference the adapter holds."""
        share = math.sqrt(self._kept / self._whole) if self._whole else 1.0
        return (
            f"The learned difference of all layers is kept as an adapter of rank {MOST_SERVED_RANK}, "
            f"which holds {share:.1%} of it (root of the squares)."
        )

    def _factors(self, difference: Tensor) -> tuple[Tensor, Tensor]:
        """Return B (outputs, rank) and A (rank, inputs); directions beyond the matrix's own are zero."""
        left, sizes, right = torch.linalg.svd(difference.float(), full_matrices=False)
        rank = min(MOST_SERVED_RANK, len(sizes))
        self._whole += float(sizes.square().sum())
        self._kept += float(sizes[:rank].square().sum())
        root = sizes[:rank].sqrt()
        up = torch.zeros(difference.shape[0], MOST_SERVED_RANK)
        down = torch.zeros(MOST_SERVED_RANK, difference.shape[1])
        up[:, :rank], down[:rank] = left[:, :rank] * root, root[:, None] * right[:rank]
        return up, down

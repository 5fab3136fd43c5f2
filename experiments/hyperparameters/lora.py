"""The adapter, and what of the base model it changes."""

import re
from typing import Literal

from pydantic import ValidationInfo, field_validator

from experiments.hyperparameters.declaration import (
    BASE_MODEL_STARTS,
    LORA,
    MOST_SERVED_RANK,
    Group,
    Integer,
    Number,
    _,
    field,
)

OWN_TARGETS = "own"
_LAYER_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class LoraGroup(Group):
    """The adapter, and what of the base model it changes."""

    lora_r: Integer = field(
        16, limits=(1, 256), group=LORA, advanced=False, label=_("Rank"), shown_if=("training_kind", ("lora",)),
        help=_("Size of the adapter. A higher rank can learn more and needs more memory."),
    )  # fmt: skip
    lora_alpha: Number = field(
        32.0, limits=(0.01, 1024), group=LORA, label=_("Alpha"), shown_if=("training_kind", ("lora",)),
        help=_("Strength of the adapter; it is scaled by alpha divided by rank. Twice the rank is usual."),
    )  # fmt: skip
    lora_dropout: Number = field(
        0.0, limits=(0, 0.9), group=LORA, label=_("Dropout"), shown_if=("training_kind", ("lora",)),
        help=_("Share of the adapter's input left out at random; helps against overfitting and slows training."),
    )  # fmt: skip
    lora_targets: Literal["all-linear", "attention", "query-value", "mlp", "own"] = field(
        "all-linear", group=LORA, label=_("Adapted layers"), shown_if=("training_kind", ("lora",)),
        choices={
            "all-linear": _("All linear layers"), "attention": _("Attention only"),
            "query-value": _("Query and value only"), "mlp": _("Feed-forward (MLP) only"),
            "own": _("As named below"),
        },
        help=_("Which weights of the base model get an adapter. More layers learn more and train slower."),
    )  # fmt: skip
    lora_target_names: str = field(
        "", group=LORA, label=_("Names of the adapted layers"), longest=400, shown_if=("lora_targets", (OWN_TARGETS,)),
        help=_("Linear layers of the base model by their own names, parted by commas, as in q_proj, v_proj, o_proj."),
    )  # fmt: skip
    dora: bool = field(
        False, group=LORA, label=_("DoRA"), shown_if=("training_kind", ("lora",)),
        help=_("Learns length and direction of the weights apart. Slower; such adapters cannot be deployed here."),
    )  # fmt: skip
    rslora: bool = field(
        False, group=LORA, label=_("Rank-stabilised scale (rsLoRA)"), shown_if=("training_kind", ("lora",)),
        help=_("Scales the adapter by alpha divided by the root of the rank, which suits high ranks."),
    )  # fmt: skip
    lora_init: Literal["default", "gaussian", "pissa", "olora"] = field(
        "default", group=LORA, label=_("Start of the adapter"), shown_if=("training_kind", ("lora",)),
        choices={
            "default": _("Usual (uniform)"), "gaussian": _("Normally distributed"),
            "pissa": _("Main directions of the base model (PiSSA)"),
            "olora": _("Orthogonal, from the base model (OLoRA)"),
        },
        help=_("A start from the base model often learns faster; the result then has twice the rank."),
    )  # fmt: skip

    @field_validator("lora_target_names")
    @classmethod
    def _layers_are_named(cls, text: str, info: ValidationInfo) -> str:
        """Refuse what cannot be the name of a layer; return the names in alphabetical order, each once."""
        names = sorted({name for name in re.split(r"[,\s]+", text) if name})
        if wrong := next((name for name in names if not _LAYER_NAME.fullmatch(name)), None):
            raise ValueError(
                f"'{wrong[:40]}' is no name of a layer. Write own names without dots, as in q_proj, v_proj"
            )
        if not names and info.data.get("lora_targets") == OWN_TARGETS:
            raise ValueError("Name at least one layer, or choose one of the groups of layers")
        return ", ".join(names)

    @field_validator("lora_init")
    @classmethod
    def _start_from_the_base_model_fits(cls, start: str, info: ValidationInfo) -> str:
        """Refuse a start from the base model where the result could not be written as a plain adapter."""
        if start in BASE_MODEL_STARTS and info.data.get("training_kind") == "lora":
            if info.data.get("problem_type") == "preference":
                raise ValueError("Preferences compare with the base model, which this start changes. Choose another")
            if info.data.get("dora"):
                raise ValueError("This start cannot be combined with DoRA. Switch one of them off")
            if info.data.get("lora_r", 0) > MOST_SERVED_RANK // 2:
                raise ValueError(f"This start doubles the rank, so the rank may be at most {MOST_SERVED_RANK // 2}")
        return start

    @property
    def target_names(self) -> tuple[str, ...]:
        """The own names of the layers that get an adapter, where a person has named them."""
        return tuple(self.lora_target_names.split(", ")) if self.lora_target_names else ()

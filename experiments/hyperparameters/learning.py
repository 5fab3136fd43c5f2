"""How a step learns."""

from typing import Literal

from pydantic import ValidationInfo, field_validator

from experiments.hyperparameters.declaration import LEARNING, Group, Integer, Number, _, field


class LearningGroup(Group):
    """How a step learns."""

    learning_rate: Number = field(
        1e-3, limits=(1e-7, 0.1), group=LEARNING, advanced=False, label=_("Learning rate"),
        help=_("How far each step moves the adapter. Small models want about 0.001, large ones about 0.0002."),
    )  # fmt: skip
    schedule: Literal["linear", "cosine", "constant"] = field(
        "cosine", group=LEARNING, label=_("Learning rate schedule"),
        choices={"cosine": _("Falling, cosine"), "linear": _("Falling, straight"), "constant": _("Constant")},
        help=_("How the learning rate falls from its peak to the end of the run."),
    )  # fmt: skip
    final_learning_rate_share: Number = field(
        0.0, limits=(0, 1), group=LEARNING, label=_("Learning rate at the end"), unit=_("share of peak"),
        shown_if=("schedule", ("linear", "cosine")),
        help=_("Where the falling learning rate ends, as a share of its peak."),
    )  # fmt: skip
    warmup_share: Number = field(
        0.05, limits=(0, 0.5), group=LEARNING, label=_("Warm-up"), unit=_("share of steps"),
        help=_("Share of the steps in which the learning rate rises from zero to its peak."),
    )  # fmt: skip
    batch_size: Integer = field(
        8, limits=(1, 1024), group=LEARNING, advanced=False, label=_("Batch size"), unit=_("rows"),
        help=_("Rows whose errors are added up before the adapter is changed once."),
    )  # fmt: skip
    micro_batch_size: Integer = field(
        8, limits=(1, 256), group=LEARNING, label=_("Micro-batch size"), unit=_("rows"),
        help=_("At most this many rows are computed at once. Changes memory and speed, not the result."),
    )  # fmt: skip
    group_by_length: bool = field(
        True, group=LEARNING, label=_("Similar lengths together"),
        help=_("Puts rows of similar length into one batch, which is faster. Off: a fully random order."),
    )  # fmt: skip
    weight_decay: Number = field(
        0.0, limits=(0, 1), group=LEARNING, label=_("Weight decay"),
        help=_("How strongly adapter weights are pulled towards zero at each step."),
    )  # fmt: skip
    max_grad_norm: Number = field(
        1.0, limits=(0.001, 1000), group=LEARNING, label=_("Gradient clipping"),
        help=_("Longer gradients are shortened to this length, so that one odd row cannot spoil the run."),
    )  # fmt: skip
    seed: Integer = field(
        42, limits=(0, 2**31 - 1), group=LEARNING, label=_("Random seed"),
        help=_("The same seed gives the same order of rows and the same starting adapter."),
    )  # fmt: skip
    training_kind: Literal["lora", "full"] = field(
        "lora", group=LEARNING, label=_("What is trained"),
        choices={"lora": _("An adapter (LoRA)"), "full": _("All linear layers (small models)")},
        help=_("All layers: many times the memory; the learned difference is then kept as an adapter of rank 64."),
    )  # fmt: skip
    frozen_layers: Integer = field(
        0, limits=(0, 200), group=LEARNING, label=_("Lower layers left alone"), unit=_("layers"),
        help=_("So many layers at the model's beginning are not trained: faster, less memory, learns less."),
    )  # fmt: skip
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit"] = field(
        "adamw", group=LEARNING, label=_("Optimizer"),
        choices={
            "adamw": _("AdamW"), "adamw_8bit": _("AdamW with 8-bit memory"),
            "paged_adamw_8bit": _("AdamW with 8-bit memory, paged (GPUs only)"),
        },
        help=_("8-bit memory takes a quarter of the space. Paged moves it out of a GPU that is full."),
    )  # fmt: skip
    adam_beta1: Number = field(
        0.9, limits=(0, 0.9999), group=LEARNING, label=_("AdamW beta 1"),
        help=_("How much of the direction of earlier steps each step keeps."),
    )  # fmt: skip
    adam_beta2: Number = field(
        0.999, limits=(0, 0.999999), group=LEARNING, label=_("AdamW beta 2"),
        help=_("How long the size of earlier gradients is remembered. 0.95 to 0.99 forget outliers sooner."),
    )  # fmt: skip
    adam_epsilon: Number = field(
        1e-8, limits=(1e-12, 1), group=LEARNING, label=_("AdamW epsilon"),
        help=_("Added to the size of gradients, so that tiny ones make no huge step."),
    )  # fmt: skip
    neftune_alpha: Number = field(
        0.0, limits=(0, 100), group=LEARNING, label=_("Noise on the input (NEFTune)"),
        help=_("Random noise on the embeddings while training; 5 is usual and helps free text. 0: none."),
    )  # fmt: skip

    @field_validator("training_kind")
    @classmethod
    def _preferences_need_an_adapter(cls, kind: str, info: ValidationInfo) -> str:
        """Refuse to train all layers where the untuned model is compared with: it is the model without adapter."""
        if kind == "full" and info.data.get("problem_type") == "preference":
            raise ValueError("Preferences compare with the base model, so only an adapter can be trained")
        return kind

"""Which settings the hand-written way of training cannot compute, and what cannot be computed together. Pure.

One place for the trainer, which decides by it, and for forms and API, which say so before a run waits for a node.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from experiments.hyperparameters import BASE_MODEL_STARTS, Hyperparameters


def _(text: str) -> str:
    """Mark a text for the translation catalogue; the web side translates it when it shows it."""
    return text


@dataclass(frozen=True)
class Contradiction:
    """A setting that the others do not allow: its name, and what to say, with the facts to fill in."""

    param: str
    text: str
    facts: Mapping[str, object] = field(default_factory=dict)

    @property
    def sentence(self) -> str:
        """What to say, untranslated."""
        return self.text % self.facts


def reason_for_general_path(chosen: Hyperparameters) -> str | None:
    """Return which setting needs the general path, through transformers and peft; None if none does."""
    reasons = {
        _("the base model is compressed"): chosen.quantization != "none",
        _("16-bit numbers are chosen"): chosen.precision == "bf16",
        _("preferences compare two answers at once"): chosen.problem_type == "preference",
        _("LoRA dropout is above 0"): chosen.lora_dropout > 0,
        _("gradient checkpointing is chosen"): chosen.gradient_checkpointing,
        _("all layers are trained"): chosen.training_kind == "full",
        _("DoRA is chosen"): chosen.dora,
        _("the adapter starts from the base model"): chosen.lora_init in BASE_MODEL_STARTS,
        _("lower layers are left alone"): chosen.frozen_layers > 0,
        _("noise on the input is chosen"): chosen.neftune_alpha > 0,
    }
    return next((reason for reason, applies in reasons.items() if applies), None)


def reason_against_dividing(chosen: Hyperparameters) -> str | None:
    """Return why a base model cannot be divided among processes; None if it can."""
    reasons = {
        _("all layers are trained"): chosen.training_kind != "lora",
        _("it is compressed"): chosen.quantization != "none",
        _("DoRA measures whole weights"): chosen.dora,
        _("preferences ask the untuned model, too"): chosen.problem_type == "preference",
    }
    return next((reason for reason, applies in reasons.items() if applies), None)


def contradiction(chosen: Hyperparameters) -> Contradiction | None:
    """Return which setting the others do not allow, with the remedy; None if all fit together."""
    if chosen.precision == "int8" and (reason := reason_for_general_path(chosen)):
        return against_eight_bit(reason)
    if chosen.divide_base_model == "yes" and (reason := reason_against_dividing(chosen)):
        said = _("The base model cannot be divided among processes: %(reason)s. Change that, or divide nothing.")
        return Contradiction("divide_base_model", said, {"reason": reason})
    return None


def against_eight_bit(reason: str) -> Contradiction:
    """Return why 8-bit arithmetic cannot be used, where the way is known that a run has to take."""
    said = _("8-bit arithmetic cannot be used: %(reason)s. Choose 32 bit, or change that.")
    return Contradiction("precision", said, {"reason": reason})


def too_many_frozen(chosen: Hyperparameters, layers: int) -> Contradiction | None:
    """Return why so many layers cannot be left alone in a base model of `layers`; None if some are left."""
    if chosen.frozen_layers < layers:
        return None
    said = _(
        "The base model has %(layers)d layers, so at most %(most)d of them can be left alone. "
        "Lower that number and start the run again."
    )
    return Contradiction("frozen_layers", said, {"layers": layers, "most": layers - 1})

"""How a hyperparameter is declared: once, with type, range, default and words for people."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _(text: str) -> str:
    """Mark a text for the translation catalogue; the web side translates it when it shows it."""
    return text


def _no_bool(value: object) -> object:
    # Python counts True as 1; as a number of epochs it is a mistake.
    if isinstance(value, bool):
        raise ValueError("Input should be a number, not true or false")
    return value


Integer = Annotated[int, BeforeValidator(_no_bool)]
Number = Annotated[float, BeforeValidator(_no_bool)]

PROBLEM = _("Kind of problem")
LENGTH, LEARNING, LORA = _("Training length"), _("Learning"), _("LoRA adapter")
TEXT, HARDWARE, CHECKS = _("Text length"), _("Precision and memory"), _("Checks and checkpoints")

BASE_MODEL_STARTS = ("pissa", "olora")  # starts that move a part of the base model into the adapter
MOST_SERVED_RANK = 64  # of one adapter, in our engines
ProblemType = Literal["chat", "classification", "regression", "preference", "pretraining"]
PROBLEM_TYPES: tuple[str, ...] = get_args(ProblemType)
LEARNS_ANSWERS = ("chat", "classification", "regression")  # from rows with a prompt and one answer


class Group(BaseModel):
    """A group of hyperparameters. A check sees, besides its own, those of the groups before."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


def field(
    default: object,
    *,
    label: str,
    help: str,
    group: str,
    limits: tuple[float, float] | None = None,
    advanced: bool = True,
    unit: str = "",
    choices: Mapping[str, str] | None = None,
    shown_if: tuple[str, tuple[str, ...]] | None = None,
    longest: int | None = None,
) -> Any:
    """Return a field of a group. `limits`: least and most; `longest`: characters of a text; others see `FieldInfo`."""
    words = {"label": label, "help": help, "group": group, "advanced": advanced, "unit": unit}
    extra: dict[str, Any] = {**words, "choices": dict(choices or {}), "shown_if": shown_if}
    minimum, maximum = limits or (None, None)
    # Only texts have a length; pydantic refuses to hear of one elsewhere.
    length: dict[str, Any] = {"max_length": longest} if longest else {}
    return Field(default, ge=minimum, le=maximum, description=help, json_schema_extra=extra, **length)

"""How the hyperparameters are shown and asked for."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

from annotated_types import Ge, Le, MaxLen

from experiments.hyperparameters.declaration import Integer
from experiments.hyperparameters.whole import Hyperparameters


@dataclass(frozen=True)
class FieldInfo:
    """How one hyperparameter is shown and asked for. Texts are English and marked for translation.

    `shown_if` is (other field, its values): the field matters only while the other one has one of these values.
    `choices` are (value, label) pairs. `required` is False where an empty answer means "no limit". `longest`: the most
    characters of a text.
    """

    name: str
    label: str
    help: str
    group: str
    advanced: bool
    kind: Literal["int", "float", "choice", "bool", "text"]
    minimum: float | None
    maximum: float | None
    default: object
    choices: tuple[tuple[str, str], ...]
    unit: str
    shown_if: tuple[str, tuple[str, ...]] | None
    required: bool
    longest: int | None = None


@cache
def form_fields() -> tuple[FieldInfo, ...]:
    """Return every hyperparameter in the order of declaration, groups contiguous."""
    return tuple(_field_info(name) for name in Hyperparameters.model_fields)


def _field_info(name: str) -> FieldInfo:
    field = Hyperparameters.model_fields[name]
    extra: Any = field.json_schema_extra
    types = (field.annotation, *get_args(field.annotation))
    limits = {type(limit): limit for limit in field.metadata}
    return FieldInfo(
        name=name,
        label=extra["label"],
        help=extra["help"],
        group=extra["group"],
        advanced=extra["advanced"],
        kind=_kind(types, extra["choices"]),
        minimum=limits[Ge].ge if Ge in limits else None,
        maximum=limits[Le].le if Le in limits else None,
        default=field.default,
        choices=tuple(extra["choices"].items()),
        unit=extra["unit"],
        shown_if=extra["shown_if"],
        required=type(None) not in types,
        longest=limits[MaxLen].max_length if MaxLen in limits else None,
    )


def _kind(types: tuple[Any, ...], choices: Mapping[str, str]) -> Literal["int", "float", "choice", "bool", "text"]:
    if choices:
        return "choice"
    if str in types:
        return "text"
    if bool in types:
        return "bool"
    return "int" if int in types or Integer in types else "float"

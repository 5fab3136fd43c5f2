"""The values of hyperparameters as people read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from django.utils.translation import get_language
from django.utils.translation import gettext as _

from experiments.hyperparameters import FieldInfo, form_fields


def fields_in_words() -> tuple[FieldInfo, ...]:
    """Return every hyperparameter with its texts in the present language."""
    return _translated(get_language() or "")


@lru_cache(maxsize=16)
def _translated(language: str) -> tuple[FieldInfo, ...]:
    # Which language it is follows from the thread; the argument only keeps the answers apart.
    return tuple(
        replace(
            info,
            label=_(info.label),
            help=_(info.help),
            group=_(info.group),
            unit=_(info.unit) if info.unit else "",
            choices=tuple((value, _(words)) for value, words in info.choices),
        )
        for info in form_fields()
    )


def value_words(info: FieldInfo, value: object) -> str:
    """Return what a page shows for a value of a field in words, without its unit."""
    if value is None or value == "":
        return _("none")
    if isinstance(value, bool):
        return _("Yes") if value else _("No")
    number = f"{value:g}" if isinstance(value, float) else str(value)
    return dict(info.choices).get(str(value), number)


def refusal_words(problem: Mapping[str, Any]) -> str:
    """Return what one of the errors of a pydantic ValidationError says, as a sentence.

    Before sentences of our own pydantic puts “Value error, ”, which tells people nothing.
    """
    own = problem.get("ctx", {}).get("error") if problem["type"] == "value_error" else None
    return f"{str(problem['msg'] if own is None else own).rstrip('.')}."

"""What the texts of a row must be, when people or programs write them."""

from __future__ import annotations

from typing import Final

from django.utils.translation import gettext as _

from datasets_app.fields import json_object
from datasets_app.operations.base import Door
from datasets_app.readers import DEFAULT_LIMITS

LIMITS: Final = {
    "prompt": DEFAULT_LIMITS.max_prompt_characters,
    "answer": DEFAULT_LIMITS.max_answer_characters,
    "system": DEFAULT_LIMITS.max_prompt_characters,
}


def read_text(door: Door, name: str, *, may_be_empty: bool = False) -> str:
    """Return the `name` (prompt, answer or system) of a row. Raises: InvalidInput."""
    text = door.text(name).strip()
    if not text and not may_be_empty:
        raise door.refusal(name, _("'%(name)s' must not be empty.") % {"name": name}, "empty_text")
    if "\0" in text:
        raise door.refusal(name, _("'%(name)s' holds a NUL character.") % {"name": name}, "nul")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise door.refusal(name, _("'%(name)s' holds half of a character.") % {"name": name}, "surrogate") from None
    if len(text) > LIMITS[name]:
        raise door.refusal(
            name,
            _("'%(name)s' has %(found)d characters; at most %(limit)d are allowed.")
            % {"name": name, "found": len(text), "limit": LIMITS[name]},
            "text_too_long",
        )
    return text


def is_json_answer(answer: str) -> bool:
    """Tell whether an answer is what an answer in JSON must be: one object."""
    return json_object(answer) is not None

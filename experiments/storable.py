"""Makes values that programs report fit for PostgreSQL, which takes no NUL, half characters, NaN or infinity."""

from __future__ import annotations

import math


def storable_text(text: str) -> str:
    """Return the text without what no text column takes."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode()


def storable_number(value: object) -> float | None:
    """Return a finite number, or None for anything else; true and false are no numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def storable_json(value: object) -> object:
    """Return a JSON value with its texts and numbers made storable, however deep they lie."""
    if isinstance(value, str):
        return storable_text(value)
    if isinstance(value, float):
        return storable_number(value)
    if isinstance(value, dict):
        return {storable_text(str(name)): storable_json(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [storable_json(member) for member in value]
    return value

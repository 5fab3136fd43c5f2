"""Typed cells of workbooks and Parquet files as the text that a CSV export would hold, only always the same."""

from __future__ import annotations

import math
from datetime import date, datetime, time, timedelta
from decimal import Decimal

EXACT_INTEGERS = 2.0**53


def as_cell(value: object) -> object:
    """Return a cell: text for everything simple, lists and objects as they are, with simple JSON inside.

    Nothing is "", truth is true or false, 5.0 is 5, a day is 2026-11-22, a moment is 2026-11-22 09:30:00.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple | dict):
        return _as_json(value)
    return _as_text(value)


def _as_text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, Decimal):
        return format(value.normalize(), "f") if value.is_finite() else ""
    if isinstance(value, datetime):
        return value.isoformat(" ")
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, timedelta):
        return str(value)
    return str(value)


def _number(value: float) -> str:
    if not math.isfinite(value):
        return ""
    return str(int(value)) if value.is_integer() and abs(value) < EXACT_INTEGERS else repr(value)


def _as_json(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _as_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        pairs = [item for item in value if isinstance(item, tuple) and len(item) == 2]
        if value and len(pairs) == len(value):  # how Arrow gives a map
            return {str(key): _as_json(inner) for key, inner in pairs}
        return [_as_json(inner) for inner in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return _as_text(value)

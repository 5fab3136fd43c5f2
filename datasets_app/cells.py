"""What a cell beside the texts says: which part a row belongs to, and when it was written. Pure."""

import re
from datetime import date, datetime
from typing import Final

# What people call the three parts, in lower case.
SPLIT_NAMES: Final = {
    "train": "train", "training": "train", "trn": "train", "обучение": "train", "обучающая": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "development": "validation", "eval": "validation", "валидация": "validation", "проверочная": "validation",
    "test": "test", "testing": "test", "tst": "test", "holdout": "test", "held-out": "test", "heldout": "test",
    "тест": "test", "тестовая": "test",
}  # fmt: skip
# 31.12.2026 and 31/12/2026; the day comes first unless it cannot.
NUMERIC_DATE: Final = re.compile(r"^(\d{1,2})[./](\d{1,2})[./](\d{4})\b")


def split_named(cell: object) -> str | None:
    """Return train, validation or test as a cell names it ("Train", "dev", "valid" …); None for anything else."""
    return SPLIT_NAMES.get(cell.strip().lower()) if isinstance(cell, str) else None


def date_of(cell: object) -> str | None:
    """Return a cell's date and time in ISO form, None if it holds none.

    Read are ISO dates with or without a time, and 31.12.2026 or 31/12/2026 (day first, unless it is over 12 only when
    read the other way).
    """
    if not isinstance(cell, str) or not 8 <= len(text := cell.strip()) <= 40:
        return None
    if found := NUMERIC_DATE.match(text):
        return _numeric(int(found[1]), int(found[2]), int(found[3]))
    if not re.match(r"\d{4}-\d\d-\d\d", text):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return text[:10] if len(text) == 10 else moment.isoformat()


def _numeric(first: int, second: int, year: int) -> str | None:
    for day, month in ((first, second), (second, first)):
        try:
            return date(year, month, day).isoformat()
        except ValueError:
            continue
    return None

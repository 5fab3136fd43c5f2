"""What a dataset version says about how its model wants to be asked."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from datasets_app import store
from datasets_app.answer_schemas.origins import current_schema
from datasets_app.models import DatasetVersion, Split
from datasets_app.rows import CanonicalRow, Message
from deployments.fitted import system_of

_ROWS_LOOKED_AT = 200
_MOST_PROMPTS = 20


@dataclass(frozen=True)
class SampleRow:
    """One row of a dataset: what to ask, and what the dataset says the answer is."""

    messages: tuple[Message, ...]
    expected: str

    @property
    def system(self) -> str:
        """The row's own system prompt."""
        return next((message["content"] for message in self.messages if message["role"] == "system"), "")

    @property
    def prompt(self) -> str:
        """What the person said last."""
        said = [message["content"] for message in self.messages if message["role"] == "user"]
        return said[-1] if said else ""


def common_system_prompt(version: DatasetVersion) -> str:
    """Return the system prompt that the training rows share, or '' if they have none or different ones."""
    path = version.rows_path(Split.TRAIN)
    if not path.exists():
        return ""
    prompts = {_sample(row).system for row in store.read_slice(path, 0, _ROWS_LOOKED_AT)}
    return prompts.pop() if len(prompts) == 1 else ""


def system_prompts(version: DatasetVersion) -> set[str] | None:
    """Return the system prompts of the validation rows; None if each row, or nearly so, has its own."""
    path = version.rows_path(Split.VALIDATION)
    rows = store.read_slice(path, 0, _ROWS_LOOKED_AT) if path.exists() else ()
    found = {system_of(row.messages) for row in rows}
    return found if len(found) <= _MOST_PROMPTS else None


def schema_of(version: DatasetVersion) -> dict[str, Any] | None:
    """Return the schema of a version's answers, None if nobody has written or found one."""
    known = current_schema(version)
    schema: dict[str, Any] | None = known.schema if known is not None else None
    return schema


def random_row(version: DatasetVersion, split: Split) -> SampleRow | None:
    """Return a row of a split by chance, or None if it has none. Reads a part of the file, however large it is."""
    path, count = version.rows_path(split), version.row_count(split)
    if not path.exists() or not count:
        return None
    place = random.randrange(count)  # noqa: S311 — chance, not a secret
    return next(map(_sample, store.read_slice(path, place, place + 1)), None)


def _sample(row: CanonicalRow) -> SampleRow:
    return SampleRow(messages=row.messages[:-1], expected=row.answer)

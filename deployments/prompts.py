"""What a dataset version says about how its model wants to be asked."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from datasets_app.models import DatasetVersion, Split

_ROWS_LOOKED_AT = 200


@dataclass(frozen=True)
class SampleRow:
    """One row of a dataset: what to ask, and what the dataset says the answer is."""

    messages: tuple[dict[str, str], ...]
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
    with path.open(encoding="utf-8") as lines:
        prompts = {_row(line).system for line in islice(lines, _ROWS_LOOKED_AT)}
    return prompts.pop() if len(prompts) == 1 else ""


def random_row(version: DatasetVersion, split: Split) -> SampleRow | None:
    """Return a row of a split by chance, or None if it has none. Reads a few kilobytes, however large the file is."""
    path = version.rows_path(split)
    if not path.exists() or path.stat().st_size == 0:
        return None
    return _row(_line_at(path, random.randrange(path.stat().st_size)))  # noqa: S311 — chance, not a secret


def _line_at(path: Path, offset: int) -> bytes:
    """Return the first whole line after a byte offset; behind the last one comes the first."""
    with path.open("rb") as handle:
        if offset:
            handle.seek(offset - 1)
            handle.readline()
        line = handle.readline()
        if not line:
            handle.seek(0)
            line = handle.readline()
    return line


def _row(line: bytes | str) -> SampleRow:
    row: dict[str, Any] = json.loads(line)
    *asked, answer = row["messages"]
    return SampleRow(messages=tuple(asked), expected=answer["content"])

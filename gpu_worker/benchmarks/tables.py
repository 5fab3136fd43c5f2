"""Rows of tables in the import format, as benchmarks learn and ask them."""

import csv
from pathlib import Path

Pair = tuple[str, str]
"""Prompt and response of a row."""


def read_pairs(path: Path) -> list[Pair]:
    """Return the rows of a CSV file with the columns prompt and response."""
    with path.open(encoding="utf-8", newline="") as file:
        return [(row["prompt"], row["response"]) for row in csv.DictReader(file)]


def conversation(system: str, pair: Pair) -> list[dict[str, str]]:
    """Return a row as the messages of a conversation."""
    prompt, response = pair
    return [
        {"role": "system", "content": system},
        {"role": "user", "content": prompt},
        {"role": "assistant", "content": response},
    ]

"""What an examination returns: findings with examples, and figures about fields, tokens and languages."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self

import numpy as np
import numpy.typing as npt

Severity = Literal["error", "warning", "info"]
SEVERITIES: Final[tuple[Severity, ...]] = ("error", "warning", "info")
MAX_EXAMPLES: Final = 100
# How far the work is after the first and the second reading.
LEARNED: Final = 0.15
READ: Final = 0.8

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Example:
    """One row that a finding is about: `row` is the line of its source, `field` a key of the answer or empty."""

    split: str
    id: int
    row: int
    field: str = ""
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """One kind of fault: how many rows have it, the first of them, and which operations could mend it.

    `code` names the sentences (`sentences.py`) and the side file with the ids of all its rows (`read_ids`).
    `fixes` are names of operations on a version; the first is the one to offer first.
    """

    code: str
    severity: Severity
    count: int
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    examples: tuple[Example, ...] = ()
    fixes: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """Return the finding that `Report.to_dict` made part of a report."""
        examples = tuple(Example(**one) for one in stored["examples"])
        return cls(**{**stored, "examples": examples, "fixes": tuple(stored["fixes"])})


@dataclass(frozen=True)
class Report:
    """The result of an examination, ready to be stored as JSON.

    `rows`: rows of each split. `schema`: the inferred JSON schema of the answers, None if they are not JSON.
    `balance`: per closed field and split, how often each label occurs. `tokens`: lengths with the base model's
    tokenizer, None without one. `languages`: share of rows per language. `timings`: seconds per part.
    """

    rows: Mapping[str, int]
    findings: tuple[Finding, ...] = ()
    schema: Mapping[str, Any] | None = None
    balance: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tokens: Mapping[str, Any] | None = None
    languages: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    timings: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def finding(self, code: str) -> Finding | None:
        """Return the finding of that kind, or None if there is none."""
        return next((one for one in self.findings if one.code == code), None)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """Return the report that `to_dict` wrote."""
        return cls(**{**stored, "findings": tuple(Finding.from_dict(one) for one in stored["findings"])})


def ids_path(folder: Path, code: str) -> Path:
    """Return where the ids of all rows of a finding are kept."""
    return folder / f"{code}.ids"


def write_ids(folder: Path, code: str, ids: Ids) -> None:
    """Write the ids of a finding's rows: 8 bytes each, little endian."""
    ids_path(folder, code).write_bytes(ids.astype("<i8").tobytes())


def read_ids(folder: Path, code: str) -> Ids:
    """Return the ids of all rows of a finding, in the order of the rows. Raises: FileNotFoundError."""
    return np.fromfile(ids_path(folder, code), dtype="<i8").astype(np.int64)

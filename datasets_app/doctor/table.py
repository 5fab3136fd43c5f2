"""What the doctor remembers of every row: a few numbers, so that a million rows need some dozens of megabytes."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datasets_app.doctor.report import MAX_EXAMPLES, Example, Finding, Severity, write_ids
from datasets_app.rows import CanonicalRow
from datasets_app.store import SPLITS

BATCH_ROWS: Final = 2_048

Positions = npt.NDArray[np.int64]
_BLANKS: Final = re.compile(r"\s+")


@dataclass(frozen=True)
class Batch:
    """Some rows of one split, as read; `first` is the position of the first one among the rows of all splits."""

    split: str
    first: int
    rows: Sequence[CanonicalRow]


def normalised(text: str) -> str:
    """Return a text in the form in which two rows count as the same: letter case and white space do not matter."""
    return _BLANKS.sub(" ", unicodedata.normalize("NFKC", text)).strip().casefold()


def question_of(row: CanonicalRow) -> str:
    """Return everything the model is told before it answers."""
    return "\0".join(message["content"] for message in row.messages[:-1])


def short_hash(text: str) -> int:
    """Return 63 bits that stand for a text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


class RowTable:
    """Id, line, split and the hashes of question and answer of every row, by the row's position."""

    def __init__(self) -> None:
        self._columns = {name: array("q") for name in ("id", "row", "question", "answer")}
        self.counts: dict[str, int] = {}

    def add(self, batch: Batch) -> None:
        """Note the rows of a batch; the splits come one after the other."""
        columns = self._columns
        for row in batch.rows:
            columns["id"].append(row.id)
            columns["row"].append(row.row)
            columns["question"].append(short_hash(normalised(question_of(row))))
            columns["answer"].append(short_hash(normalised(row.answer)))
        self.counts[batch.split] = self.counts.get(batch.split, 0) + len(batch.rows)

    def __len__(self) -> int:
        return len(self._columns["id"])

    @cached_property
    def ids(self) -> Positions:
        """The ids of the rows."""
        return self._column("id")

    @cached_property
    def lines(self) -> Positions:
        """The lines of the source on which the rows begin."""
        return self._column("row")

    @cached_property
    def questions(self) -> Positions:
        """Hashes of what the rows ask."""
        return self._column("question")

    @cached_property
    def answers(self) -> Positions:
        """Hashes of what the rows answer."""
        return self._column("answer")

    @cached_property
    def splits(self) -> npt.NDArray[np.int8]:
        """The split of each row, as its place in `SPLITS`."""
        parts = [np.full(count, SPLITS.index(split), dtype=np.int8) for split, count in self.counts.items()]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int8)

    def _column(self, name: str) -> Positions:
        return np.array(self._columns[name], dtype=np.int64)

    def example(self, position: int, field: str = "", params: Mapping[str, Any] | None = None) -> Example:
        """Return the row at a position as an example of a finding."""
        return Example(
            SPLITS[self.splits[position]], int(self.ids[position]), int(self.lines[position]), field, params or {}
        )

    def place(self, position: int, prefix: str = "other") -> dict[str, Any]:
        """Return split, id and line of a row that an example is compared with."""
        return {
            f"{prefix}_split": SPLITS[self.splits[position]],
            f"{prefix}_id": int(self.ids[position]),
            f"{prefix}_row": int(self.lines[position]),
        }


class Findings:
    """Collects findings and writes the ids of their rows beside the report."""

    def __init__(self, table: RowTable, folder: Path) -> None:
        self._table = table
        self._folder = folder
        self._found: list[Finding] = []

    def add(
        self,
        code: str,
        severity: Severity,
        positions: npt.ArrayLike,
        *,
        params: Mapping[str, Any] | None = None,
        examples: Iterable[Example] | None = None,
        fixes: Sequence[str] = (),
    ) -> None:
        """Add a finding about the rows at some positions, unless there are none.

        `examples`: the first rows by default; more than `MAX_EXAMPLES` are cut off.
        """
        places = np.unique(np.asarray(positions, dtype=np.int64))
        if not len(places):
            return
        shown = (self._table.example(int(one)) for one in places) if examples is None else iter(examples)
        write_ids(self._folder, code, self._table.ids[places])
        self._found.append(
            Finding(code, severity, len(places), params or {}, tuple(_first(shown, MAX_EXAMPLES)), tuple(fixes))
        )

    def keep_ids(self, name: str, positions: Sequence[int]) -> None:
        """Keep the ids of some of a finding's rows in a side file of their own, for fixes."""
        write_ids(self._folder, name, self._table.ids[np.asarray(positions, dtype=np.int64)])

    def note(self, code: str, severity: Severity, count: int, params: Mapping[str, Any] | None = None) -> None:
        """Add a finding that is about the dataset and not about certain rows."""
        self._found.append(Finding(code, severity, count, params or {}))

    def sorted(self) -> tuple[Finding, ...]:
        """Return the findings, the grave ones first."""
        order = {"error": 0, "warning": 1, "info": 2}
        return tuple(sorted(self._found, key=lambda one: order[one.severity]))


def _first(examples: Iterator[Example], limit: int) -> Iterator[Example]:
    for _, example in zip(range(limit), examples, strict=False):
        yield example

"""The one pass over a source: every record is read once, checked, written aside, and remembered as a few numbers.

It streams: memory grows by some dozens of bytes a row, whatever the texts are.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import numpy as np
import numpy.typing as npt

from datasets_app.answer_counts import AnswerCounts
from datasets_app.mapping import Mapping as ColumnMapping
from datasets_app.readers import DataError, RowFault, Table
from datasets_app.readers.sentences import IMPORT_SENTENCES
from datasets_app.rows import FlatRow, JsonAnswers, RowMaker
from datasets_app.splits import NO_DATE, SPLITS
from datasets_app.store import RowWriter

# Called with the rows and the bytes of the source that are done; may raise to stop the pass.
Progress = Callable[[int, int], None]
ROWS_PER_PROGRESS: Final = 1_000


class ImportRefused(DataError):
    """No row of a source can be used."""

    sentences = IMPORT_SENTENCES


def no_progress(rows_done: int, bytes_done: int) -> None:
    """Ignore the progress of a pass."""


@dataclass
class Outcome:
    """What a pass over a source found: good rows, and the first faults of all `fault_count`."""

    rows: int = 0
    faults: list[RowFault] = field(default_factory=list)
    fault_count: int = 0


class RowFacts:
    """What is remembered of every row, in the order of the ids, to compare rows and to divide them."""

    def __init__(self, answers: JsonAnswers) -> None:
        self.counts = AnswerCounts(answers)
        self._questions, self._answers = array("q"), array("q")
        self._groups, self._moments, self._parts = array("q"), array("q"), array("b")

    def add(self, row: FlatRow) -> None:
        """Remember one row."""
        # Equal texts have equal hashes in one process, and more is not asked of them.
        self._questions.append(hash((row.prompt.casefold(), row.system, _said(row) if row.earlier else "")))
        self._answers.append(hash(row.answer))
        self.counts.add(row.answer)
        if row.group or self._groups:
            self._note(self._groups, hash(row.group) if row.group else 0, 0)
        if row.at or self._moments:
            self._note(self._moments, moment_of(row.at), NO_DATE)
        if row.split:
            self._parts.append(SPLITS.index(row.split))

    def _note(self, column: array[int], value: int, unknown: int) -> None:
        """Append to a column that begins with the first row that knows something."""
        missing = len(self._answers) - 1 - len(column)
        if missing:
            column.extend([unknown] * missing)
        column.append(value)

    def __len__(self) -> int:
        return len(self._answers)

    @property
    def questions(self) -> npt.NDArray[np.int64]:
        """A hash of what each row asks; letter case does not matter."""
        return np.frombuffer(self._questions, dtype=np.int64)

    @property
    def answers(self) -> npt.NDArray[np.int64]:
        """A hash of each answer."""
        return np.frombuffer(self._answers, dtype=np.int64)

    @property
    def groups(self) -> npt.NDArray[np.int64] | None:
        """A hash of each row's group, 0 for none; None if no row has one."""
        return np.frombuffer(self._groups, dtype=np.int64) if self._groups else None

    @property
    def moments(self) -> npt.NDArray[np.int64] | None:
        """The time of each row in seconds, or NO_DATE; None if no row has one."""
        return np.frombuffer(self._moments, dtype=np.int64) if self._moments else None

    @property
    def parts(self) -> npt.NDArray[np.int8] | None:
        """The part that each row names; None if no column does."""
        return np.frombuffer(self._parts, dtype=np.int8) if self._parts else None


def _said(row: FlatRow) -> str:
    return "\0".join(message["content"] for message in row.earlier or ())


def moment_of(at: str) -> int:
    """Return the seconds of an ISO date since 1970 (without a zone: as if in UTC), NO_DATE for none."""
    if not at:
        return NO_DATE
    try:
        moment = datetime.fromisoformat(at)
    except ValueError:
        return NO_DATE
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def read_source(
    source: Table,
    mapping: ColumnMapping,
    out: RowWriter | None,
    facts: RowFacts | None = None,
    *,
    skip_faulty: bool,
    first_id: int = 1,
    progress: Progress = no_progress,
) -> Outcome:
    """Read a source once: its good rows go into `out`, numbered from `first_id`; faults are counted and kept.

    After a fault that is not to be skipped nothing more is written: the whole import will be refused.
    Raises: FileRefused, MappingError.
    """
    outcome = Outcome()
    maker = RowMaker(mapping, source.limits, facts.counts.parser if facts is not None else None)
    mapping.validate(source.columns)
    make, rows, count = maker.flat, 0, 0
    for count, record in enumerate(source.records(), 1):
        made = record if type(record) is RowFault else make(record)  # type: ignore[arg-type]
        if type(made) is RowFault:
            outcome.fault_count += 1
            if len(outcome.faults) < source.limits.max_faults:
                outcome.faults.append(made)
        else:
            if out is not None and (skip_faulty or not outcome.fault_count):
                out.add_flat(first_id + rows, made)  # type: ignore[arg-type]
                if facts is not None:
                    facts.add(made)  # type: ignore[arg-type]
            rows += 1
        if count % ROWS_PER_PROGRESS == 0:
            progress(count, source.position_bytes)
    progress(count, source.position_bytes)
    outcome.rows = rows
    return outcome

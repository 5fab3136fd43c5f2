"""The work behind a derived version: the parent's rows stream through its changes into files of their own.

Nothing here touches the database; a worker may run it twice with the same result.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from datasets_app.conversion import ROWS_PER_BEAT, Beat, Conversion, facts
from datasets_app.models import Split
from datasets_app.operations import ChangeRefused, Context, PlacedRow, Rows, apply_all, read_changes
from datasets_app.store import RowWriter, WrittenRows, content_hash, read_rows


@dataclass(frozen=True)
class Derivation:
    """What makes a derived version: the parent's files by split and its number of rows, and the changes as JSON."""

    paths: Mapping[Split, Path]
    rows: int
    changes: list[dict[str, object]]
    context: Context


class StoredRows(Rows):
    """The parent's rows, split by split; walking through them tells the progress."""

    def __init__(self, paths: Mapping[Split, Path], beat: Beat) -> None:
        self._paths = paths
        self._beat = beat

    def __iter__(self) -> Iterator[PlacedRow]:
        done = 0
        for split, path in self._paths.items():
            for row in read_rows(path):
                if done % ROWS_PER_BEAT == 0:
                    self._beat(done, 0)
                done += 1
                yield PlacedRow(split, row)
        self._beat(done, 0)


def derive(job: Derivation, folder: Path, *, beat: Beat) -> Conversion:
    """Write the rows after all changes into `folder`, a file for each split that has rows.

    Raises: ChangeRefused if the rows are not as a change supposes, or no training row is left; OSError, and whatever
    `beat` raises.
    """
    if not all(path.exists() for path in job.paths.values()) or not job.paths:
        raise ChangeRefused("parent_missing")
    changed = apply_all(StoredRows(job.paths, beat), read_changes(job.changes), job.context)
    with contextlib.ExitStack() as stack:
        outs = {split: stack.enter_context(RowWriter(folder / f"{split.value}.parquet")) for split in Split}
        for placed in changed:
            outs[placed.split].add(placed.row)
        if not outs[Split.TRAIN].rows:
            raise ChangeRefused("no_training_rows")
    written: dict[str, WrittenRows] = {split.value: out.written() for split, out in outs.items() if out.rows}
    return Conversion(
        rows={split: part.rows for split, part in written.items()},
        size_bytes=sum(part.size_bytes for part in written.values()),
        content_hash=content_hash(written),
        report=facts(folder, written, lambda: beat(job.rows, 0)),
    )

"""The two passes of an import: check a source and say what is wrong with it, then write its canonical rows.

Both stream: memory does not grow with the file.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from datasets_app.mapping import Mapping as ColumnMapping
from datasets_app.readers import DEFAULT_LIMITS, DataError, Detection, Limits, RowFault, Table, open_table
from datasets_app.readers.sentences import IMPORT_SENTENCES
from datasets_app.rows import CanonicalRow, RowMaker
from datasets_app.splits import split_rows
from datasets_app.store import RowWriter, WrittenRows

# Called with the rows and the bytes of the source that are done; may raise to stop the pass.
Progress = Callable[[int, int], None]
ROWS_PER_PROGRESS: Final = 1_000


class ImportRefused(DataError):
    """The rows of a source cannot be written; `fault` is the row to blame, if it is one."""

    sentences = IMPORT_SENTENCES
    fault: RowFault | None = None


@dataclass(frozen=True)
class SourceReport:
    """What a pass over a source found: good rows, and the first faults of all `fault_count`."""

    rows: int
    faults: tuple[RowFault, ...]
    fault_count: int
    columns: tuple[str, ...]
    sha256: str
    size_bytes: int

    def to_dict(self) -> dict[str, object]:
        """Return a JSON-ready form."""
        return asdict(self) | {"columns": list(self.columns), "faults": [fault.to_dict() for fault in self.faults]}


def no_progress(rows_done: int, bytes_done: int) -> None:
    """Ignore the progress of a pass."""


def check_source(
    path: Path,
    mapping: ColumnMapping,
    limits: Limits = DEFAULT_LIMITS,
    detection: Detection | None = None,
    *,
    encoding: str | None = None,
    delimiter: str | None = None,
    progress: Progress = no_progress,
) -> SourceReport:
    """Return how many rows a source gives under a mapping, and what is wrong with the others.

    Raises: FileRefused, MappingError.
    """
    table = open_table(path, limits=limits, encoding=encoding, delimiter=delimiter, detection=detection)
    rows = fault_count = 0
    faults: list[RowFault] = []
    for made in _made_rows(table, mapping, progress):
        if not isinstance(made, RowFault):
            rows += 1
            continue
        fault_count += 1
        if len(faults) < limits.max_faults:
            faults.append(made)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return SourceReport(rows, tuple(faults), fault_count, table.columns, digest, path.stat().st_size)


def write_rows(
    source: Table,
    mapping: ColumnMapping,
    out_path: Path,
    *,
    skip_faulty: bool,
    first_id: int = 1,
    progress: Progress = no_progress,
) -> WrittenRows:
    """Write the canonical rows of a source to a file, which appears complete or not at all.

    Raises: FileRefused, MappingError; ImportRefused for a faulty row unless they are to be skipped, and if no
    good row is left.
    """
    with RowWriter(out_path) as out:
        for number, row in enumerate(_good_rows(source, mapping, progress, skip_faulty=skip_faulty), first_id):
            out.add(replace(row, id=number))
        if not out.rows:
            raise ImportRefused("no_good_rows")
    return out.written()


def write_split(
    source: Table,
    mapping: ColumnMapping,
    out_paths: Mapping[str, Path],
    *,
    rows: int,
    shares: Mapping[str, float],
    seed: int,
    skip_faulty: bool,
    progress: Progress = no_progress,
) -> dict[str, WrittenRows]:
    """Divide the `rows` good rows of one source among the files of several parts (see `split_rows`).

    Every part of `shares` must have a path in `out_paths`; a part without rows leaves no file.
    Raises: as `write_rows`; ImportRefused also if the source has another number of good rows.
    """
    with contextlib.ExitStack() as stack:
        outs = {part: stack.enter_context(RowWriter(out_paths[part])) for part in shares}
        parts = split_rows(rows, shares, seed)
        for number, row in enumerate(_good_rows(source, mapping, progress, skip_faulty=skip_faulty), 1):
            part = next(parts, None)
            if part is None:
                raise ImportRefused("source_changed")
            outs[part].add(replace(row, id=number))
        if not rows:
            raise ImportRefused("no_good_rows")
        if next(parts, None) is not None:
            raise ImportRefused("source_changed")
    return {part: out.written() for part, out in outs.items() if out.rows}


def _made_rows(source: Table, mapping: ColumnMapping, progress: Progress) -> Iterator[CanonicalRow | RowFault]:
    """Yield what becomes of every record, telling the progress now and then and at the end."""
    mapping.validate(source.columns)
    make = RowMaker(mapping, source.limits).make
    count = 0
    for count, record in enumerate(source.records(), 1):
        yield record if isinstance(record, RowFault) else make(record)
        if count % ROWS_PER_PROGRESS == 0:
            progress(count, source.position_bytes)
    progress(count, source.position_bytes)


def _good_rows(
    source: Table, mapping: ColumnMapping, progress: Progress, *, skip_faulty: bool
) -> Iterator[CanonicalRow]:
    for made in _made_rows(source, mapping, progress):
        if not isinstance(made, RowFault):
            yield made
        elif not skip_faulty:
            refusal = ImportRefused("faulty_row", fault=made.message)
            refusal.fault = made
            raise refusal

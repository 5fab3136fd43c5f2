"""The work of an import: from stored source files to canonical rows, and what the rows tell about themselves.

Nothing here touches the database; a worker may run it twice with the same result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from datasets_app import fields as answer_fields
from datasets_app.findings import Findings
from datasets_app.importing import check_source, write_rows, write_split
from datasets_app.mapping import Mapping as ColumnMapping
from datasets_app.models import Split
from datasets_app.options import ImportOptions
from datasets_app.readers import DataError, Limits, RowFault, Table, open_table
from datasets_app.rows import CanonicalRow
from datasets_app.store import WrittenRows, content_hash, read_rows

# Called with the rows done in this pass and the bytes done in both; may raise to stop the work.
Beat = Callable[[int, int], None]
ROWS_PER_BEAT: Final = 1_000
# More rows hardly change what is known about the fields, but each costs a JSON parse.
ROWS_FOR_FIELDS: Final = 100_000


@dataclass(frozen=True)
class Source:
    """A stored file and how it is to be read."""

    split: Split
    name: str
    path: Path
    encoding: str
    delimiter: str
    size_bytes: int
    # Sheets and Parquet files have rows instead of lines.
    counts_rows: bool = False


@dataclass
class Faults:
    """The faulty rows of all sources: how many, and the first of them with their file."""

    count: int = 0
    shown: list[dict[str, object]] = field(default_factory=list)

    def add(self, source: Source, faults: tuple[RowFault, ...], count: int, limit: int) -> None:
        """Note the faults of one source; `count` may be more than were kept."""
        self.count += count
        room = limit - len(self.shown)
        place: dict[str, object] = {"file": source.name, "split": source.split.value}
        if source.counts_rows:
            place["unit"] = "row"
        self.shown += [place | fault.to_dict() for fault in faults[:room]]


class FaultyRows(Exception):
    """The sources have faulty rows, which were not to be skipped."""

    def __init__(self, faults: Faults) -> None:
        super().__init__(f"{faults.count} faulty rows")
        self.faults = faults


class SourceRefused(Exception):
    """One of the sources cannot be imported at all; `error` says why."""

    def __init__(self, source: Source, error: DataError) -> None:
        super().__init__(error.message)
        self.source = source
        self.error = error


@dataclass(frozen=True)
class Conversion:
    """What an import made: rows of each split, their bytes and hash, and what there is to know about them."""

    rows: Mapping[str, int]
    size_bytes: int
    content_hash: str
    report: Mapping[str, object]


def check(
    sources: list[Source], mapping: ColumnMapping, options: ImportOptions, limits: Limits, beat: Beat
) -> tuple[dict[Split, int], Faults]:
    """Read all sources without writing; return the good rows of each and the faults.

    Raises: SourceRefused; FaultyRows unless faulty rows are to be skipped.
    """
    rows, faults, done = {}, Faults(), 0
    for source in sources:
        try:
            report = check_source(
                source.path,
                mapping,
                limits,
                encoding=source.encoding or None,
                delimiter=source.delimiter or None,
                progress=_after(done, beat),
            )
        except DataError as error:
            raise SourceRefused(source, error) from error
        rows[source.split] = report.rows
        faults.add(source, report.faults, report.fault_count, limits.max_faults)
        done += source.size_bytes
    if faults.count and not options.skip_faulty:
        raise FaultyRows(faults)
    return rows, faults


def convert(
    sources: list[Source],
    mapping: ColumnMapping,
    options: ImportOptions,
    folder: Path,
    *,
    limits: Limits,
    beat: Beat,
) -> Conversion:
    """Check all sources, then write `<split>.parquet` for each split that has rows into `folder`.

    Raises: SourceRefused, FaultyRows, OSError, and whatever `beat` raises.
    """
    rows, faults = check(sources, mapping, options, limits, beat)
    if not faults.count:
        mapping = replace(mapping, json_answers=False)  # every answer has just been parsed; once is enough
    written: dict[str, WrittenRows] = {}
    done = sum(source.size_bytes for source in sources)
    for source in sources:
        write = _split_source if len(sources) == 1 else _write_source
        try:
            first_id = 1 + sum(part.rows for part in written.values())
            progress = _after(done, beat)
            written |= write(source, mapping, options, folder, rows[source.split], first_id, limits, progress)
        except DataError as error:
            raise SourceRefused(source, error) from error
        done += source.size_bytes
    return Conversion(
        rows={split: part.rows for split, part in written.items()},
        size_bytes=sum(part.size_bytes for part in written.values()),
        content_hash=content_hash(written),
        report={
            "faults": faults.shown,
            "fault_count": faults.count,
            **facts(folder, written, lambda: beat(sum(rows.values()), done)),
        },
    )


def _write_source(
    source: Source,
    mapping: ColumnMapping,
    options: ImportOptions,
    folder: Path,
    rows: int,
    first_id: int,
    limits: Limits,
    progress: Beat,
) -> dict[str, WrittenRows]:
    path = folder / f"{source.split.value}.parquet"
    table = _table(source, limits)
    written = write_rows(table, mapping, path, skip_faulty=options.skip_faulty, first_id=first_id, progress=progress)
    return {source.split.value: written}


def _split_source(
    source: Source,
    mapping: ColumnMapping,
    options: ImportOptions,
    folder: Path,
    rows: int,
    first_id: int,
    limits: Limits,
    progress: Beat,
) -> dict[str, WrittenRows]:
    wanted = {name: share for name, share in options.shares.items() if share}
    return write_split(
        _table(source, limits),
        mapping,
        {split.value: folder / f"{split.value}.parquet" for split in Split},
        rows=rows,
        # Too few rows for every split: all of them are for training.
        shares=wanted if rows >= len(wanted) else {Split.TRAIN.value: 1.0},
        seed=options.seed,
        skip_faulty=options.skip_faulty,
        progress=progress,
    )


def _table(source: Source, limits: Limits) -> Table:
    return open_table(source.path, limits=limits, encoding=source.encoding or None, delimiter=source.delimiter or None)


def _after(bytes_before: int, beat: Beat) -> Beat:
    """Return a progress function for one pass of one source that adds the bytes of the passes before it."""
    return lambda rows, bytes_read: beat(rows, bytes_before + bytes_read)


def facts(folder: Path, written: Mapping[str, WrittenRows], alive: Callable[[], None]) -> dict[str, object]:
    """Return what a report says of rows that were written: the fields of the answers and the warnings."""
    findings = Findings()

    def answers() -> Iterator[str]:
        for number, row in enumerate(_rows_of(folder, Split.TRAIN, written)):
            findings.add_training(row)
            if number % ROWS_PER_BEAT == 0:
                alive()
            if number < ROWS_FOR_FIELDS:
                yield row.answer

    found = answer_fields.infer_fields(answers())
    for split in (Split.VALIDATION, Split.TEST):
        for number, row in enumerate(_rows_of(folder, split, written)):
            findings.add_held_out(split, row)
            if number % ROWS_PER_BEAT == 0:
                alive()
    return {"fields": [one.to_dict() for one in found], "warnings": findings.warnings()}


def _rows_of(folder: Path, split: Split, written: Mapping[str, WrittenRows]) -> Iterator[CanonicalRow]:
    return read_rows(folder / f"{split.value}.parquet") if split.value in written else iter(())

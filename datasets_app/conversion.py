"""The work of an import: from stored source files to canonical rows, and what the rows tell about themselves.

Nothing here touches the database, and `convert_here` knows no Django: it runs in a capped child. A worker may run it
twice with the same result.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datasets_app import store
from datasets_app.answer_counts import WHOLE_ANSWER
from datasets_app.capped import run_capped
from datasets_app.doctor.neighbours import near_clusters
from datasets_app.findings import warnings_of
from datasets_app.importing import ImportRefused, Outcome, RowFacts, read_source
from datasets_app.mapping import Mapping as ColumnMapping
from datasets_app.readers import DEFAULT_LIMITS, DataError, Limits, Table, open_table
from datasets_app.rows import CanonicalRow, JsonAnswers
from datasets_app.splits import AUTO, NONE, SPLITS, TRAIN, Division, Parts, RowsToDivide, SplitPlan, divide
from datasets_app.store import RowWriter, WrittenRows, content_hash

# Called with the rows and the bytes that are done; may raise to stop the work.
Beat = Callable[[int, int], None]
# Tells the parent of a capped child something.
Say = Callable[[dict[str, Any]], None]
SECONDS_BETWEEN_BEATS: Final = 0.5
# Near duplicates cost some 200 bytes a row; in larger files only equal questions are kept together.
MAX_NEAR_ROWS: Final = 200_000
# A cluster of near duplicates with a larger share of all rows is a template.
MAX_NEAR_SHARE: Final = 0.05
ROWS_PER_BEAT: Final = 1_000
# Address space, most of which is libraries; resident an import of a million rows stays below 250 MB.
MEMORY_BYTES: Final = 2 << 30
CPU_SECONDS: Final = 3_600


@dataclass(frozen=True)
class Source:
    """A stored file and how it is to be read."""

    split: str
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
    shown: list[dict[str, Any]] = field(default_factory=list)

    def add(self, source: Source, outcome: Outcome, limit: int) -> None:
        """Note the faults of one source."""
        self.count += outcome.fault_count
        room = limit - len(self.shown)
        place: dict[str, object] = {"file": source.name, "split": source.split}
        if source.counts_rows:
            place["unit"] = "row"
        self.shown += [place | fault.to_dict() for fault in outcome.faults[:room]]


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
    report: Mapping[str, Any]


def check(
    sources: Sequence[Source], mapping: ColumnMapping, *, skip_faulty: bool, limits: Limits, beat: Beat
) -> tuple[dict[str, int], Faults]:
    """Read all sources in a capped child without writing; return the good rows of each and the faults.

    Raises: SourceRefused; FaultyRows unless faulty rows are to be skipped; OSError; whatever `beat` raises.
    """
    answer = _in_child("check_in_child", sources, mapping, limits, beat, skip_faulty=skip_faulty)
    return dict(answer["rows"]), Faults(**answer["faults"])


def convert(
    sources: Sequence[Source],
    mapping: ColumnMapping,
    folder: Path,
    *,
    skip_faulty: bool,
    plan: SplitPlan,
    limits: Limits,
    beat: Beat,
) -> Conversion:
    """Write `<split>.parquet` for each split that has rows into `folder`, in a capped child.

    A single source is divided by the plan; of several, each is a split.
    Raises: SourceRefused; FaultyRows unless faulty rows are to be skipped; OSError; whatever `beat` raises.
    """
    more = {"folder": str(folder), "skip_faulty": skip_faulty, "plan": plan.to_dict()}
    return Conversion(**_in_child("convert_in_child", sources, mapping, limits, beat, **more))


def _in_child(
    function: str, sources: Sequence[Source], mapping: ColumnMapping, limits: Limits, beat: Beat, **more: Any
) -> dict[str, Any]:
    arguments = {
        "sources": [asdict(source) | {"path": str(source.path), "split": str(source.split)} for source in sources],
        "mapping": mapping.to_dict(),
        "limits": asdict(limits),
        **more,
    }
    reading = sources[0]

    def listen(said: Mapping[str, Any]) -> None:
        nonlocal reading
        if "source" in said:
            reading = sources[said["source"]]
        else:
            beat(int(said["rows"]), int(said["bytes"]))

    try:
        answer = run_capped(
            f"datasets_app.conversion:{function}",
            arguments,
            memory_bytes=MEMORY_BYTES,
            cpu_seconds=CPU_SECONDS,
            on_message=listen,
        )
    except DataError as error:
        raise SourceRefused(reading, error) from error
    if "faulty" in answer:
        raise FaultyRows(Faults(**answer["faulty"]))
    return dict(answer["done"])


# --- In the child ------------------------------------------------------------------------------------------------


def check_in_child(
    say: Say,
    *,
    sources: list[dict[str, Any]],
    mapping: dict[str, Any],
    limits: dict[str, Any],
    skip_faulty: bool,
) -> dict[str, Any]:
    """Do the work of `check`; the answer is JSON."""

    def work(files: list[Source]) -> dict[str, Any]:
        reading = _Reading(ColumnMapping.from_dict(mapping), Limits(**limits), _beat(say), skip_faulty=skip_faulty)
        rows = {source.split: reading.read(source, None, None).rows for source in files}
        return {"rows": rows, "faults": asdict(reading.judged())}

    return _told(say, sources, work)


def convert_in_child(
    say: Say,
    *,
    sources: list[dict[str, Any]],
    mapping: dict[str, Any],
    limits: dict[str, Any],
    folder: str,
    skip_faulty: bool,
    plan: dict[str, Any],
) -> dict[str, Any]:
    """Do the work of `convert`; the answer is JSON."""

    def work(files: list[Source]) -> dict[str, Any]:
        columns = ColumnMapping.from_dict(mapping)
        made = convert_here(
            files,
            columns,
            Path(folder),
            skip_faulty=skip_faulty,
            plan=SplitPlan(**plan),
            limits=Limits(**limits),
            beat=_beat(say),
        )
        return {name: getattr(made, name) for name in ("rows", "size_bytes", "content_hash", "report")}

    return _told(say, sources, work)


def _told(say: Say, sources: list[dict[str, Any]], work: Callable[[list[Source]], dict[str, Any]]) -> dict[str, Any]:
    files = [Source(**(source | {"path": Path(source["path"])})) for source in sources]
    # Rows hold no cycles: looking for some among them again and again takes a tenth of the time.
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    try:
        return {"done": work(files)}
    except FaultyRows as found:
        return {"faulty": asdict(found.faults)}
    except SourceRefused as refused:
        say({"source": files.index(refused.source)})
        raise refused.error from None


def _beat(say: Say) -> Beat:
    """Return a function that passes progress on, but not more often than every half second."""
    next_s = 0.0

    def beat(rows: int, size_bytes: int) -> None:
        nonlocal next_s
        if (now_s := time.monotonic()) >= next_s:
            next_s = now_s + SECONDS_BETWEEN_BEATS
            say({"rows": rows, "bytes": size_bytes})

    return beat


class _Reading:
    """The sources as they are read one after the other: what is done, and what was faulty."""

    def __init__(self, mapping: ColumnMapping, limits: Limits, beat: Beat, *, skip_faulty: bool) -> None:
        self.mapping, self.limits, self.skip_faulty = mapping, limits, skip_faulty
        self.faults = Faults()
        self._beat = beat
        self._rows = self._bytes = 0

    def read(self, source: Source, out: RowWriter | None, facts: RowFacts | None) -> Outcome:
        """Read one source. Raises: SourceRefused."""
        rows, size_bytes = self._rows, self._bytes
        try:
            outcome = read_source(
                _table(source, self.limits),
                self.mapping,
                out,
                facts,
                skip_faulty=self.skip_faulty,
                first_id=rows + 1,
                progress=lambda done, read: self._beat(rows + done, size_bytes + read),
            )
        except DataError as error:
            raise SourceRefused(source, error) from error
        self.faults.add(source, outcome, self.limits.max_faults)
        self._rows += outcome.rows
        self._bytes += source.size_bytes
        return outcome

    def judged(self) -> Faults:
        """Return the faults of all sources. Raises: FaultyRows unless they are to be skipped."""
        if self.faults.count and not self.skip_faulty:
            raise FaultyRows(self.faults)
        return self.faults

    def alive(self) -> None:
        """Say that the work goes on."""
        self._beat(self._rows, self._bytes)


def convert_here(
    sources: Sequence[Source],
    mapping: ColumnMapping,
    folder: Path,
    *,
    skip_faulty: bool,
    plan: SplitPlan,
    limits: Limits,
    beat: Beat,
) -> Conversion:
    """Do the work of `convert` in this process. Raises: SourceRefused, FaultyRows, OSError, whatever `beat` raises."""
    if mapping.split and len(sources) == 1:
        plan = replace(plan, by="column")
    elif mapping.split:
        mapping = replace(mapping, split=None)  # the files say it
    reading = _Reading(mapping, limits, beat, skip_faulty=skip_faulty)
    known = RowFacts(JsonAnswers(limits.max_json_depth))
    if len(sources) == 1:
        written, division = _divided(sources[0], reading, known, folder, plan)
    else:
        written, division = _as_they_are(sources, reading, known, folder)
    reading.alive()
    return Conversion(
        rows={split: part.rows for split, part in written.items()},
        size_bytes=sum(part.size_bytes for part in written.values()),
        content_hash=content_hash(written),
        report={
            "faults": reading.faults.shown,
            "fault_count": reading.faults.count,
            **report_of(known, division.parts, division.together),
        },
    )


def report_of(facts: RowFacts, parts: Parts, together: int = 0) -> dict[str, Any]:
    """Return what a report says of rows in order: the fields of training, the warnings, the counts of every split."""
    rows = np.bincount(parts, minlength=len(SPLITS)).tolist()
    return {
        "fields": [one.to_dict() for one in facts.counts.fields(parts == TRAIN) if one.name != WHOLE_ANSWER],
        "warnings": warnings_of(facts.questions, facts.answers, parts),
        "split_counts": {
            "rows": {split: count for split, count in zip(SPLITS, rows, strict=True) if count},
            "fields": facts.counts.by_part(SPLITS, parts),
            "together": together,
        },
    }


def facts(folder: Path, written: Mapping[str, WrittenRows], alive: Callable[[], None]) -> dict[str, Any]:
    """Return `report_of` rows that lie in `<split>.parquet` already."""
    known, parts = facts_of({split: folder / f"{split}.parquet" for split in SPLITS if split in written}, alive)
    return report_of(known, parts)


def facts_of(paths: Mapping[str, Path], alive: Callable[[], None]) -> tuple[RowFacts, Parts]:
    """Read the files of splits, in the order of SPLITS, and return what is remembered of the rows, and their parts."""
    known, parts = RowFacts(JsonAnswers(DEFAULT_LIMITS.max_json_depth)), []
    for split, path in paths.items():
        before = len(known)
        for batch in store.read_batches(path):
            for row in store.flat_rows(batch):
                known.add(row)
            alive()
        parts.append(np.full(len(known) - before, SPLITS.index(split), dtype=np.int8))
    return known, np.concatenate(parts)


def _as_they_are(
    sources: Sequence[Source], reading: _Reading, known: RowFacts, folder: Path
) -> tuple[dict[str, WrittenRows], Division]:
    """Write each source as the split that it is."""
    written: dict[str, WrittenRows] = {}
    parts: list[Parts] = []
    for source in sources:
        with RowWriter(folder / f"{source.split}.parquet") as out:
            outcome = reading.read(source, out, known)
        if out.rows:
            written[source.split] = out.written()
            parts.append(np.full(out.rows, SPLITS.index(source.split), dtype=np.int8))
        elif not outcome.fault_count or reading.skip_faulty:
            raise SourceRefused(source, ImportRefused("no_good_rows"))
    reading.judged()
    return written, Division(np.concatenate(parts))


def _divided(
    source: Source, reading: _Reading, known: RowFacts, folder: Path, plan: SplitPlan
) -> tuple[dict[str, WrittenRows], Division]:
    """Write one source aside, then divide its rows by the plan."""
    staged = folder / "staged.parquet"
    try:
        with RowWriter(staged, staging=True) as out:
            reading.read(source, out, known)
        reading.judged()
        if not out.rows:
            raise SourceRefused(source, ImportRefused("no_good_rows"))
        try:
            division = parts_of(known, plan, _watched(staged, reading.alive))
        except DataError as error:
            raise SourceRefused(source, error) from error
        if not (division.parts == TRAIN).any():
            raise SourceRefused(source, ImportRefused("no_training_rows"))
        return write_parts(staged, division.parts, folder, reading.alive), division
    finally:
        staged.unlink(missing_ok=True)


def parts_of(
    known: RowFacts,
    plan: SplitPlan,
    rows: Callable[[], Iterator[CanonicalRow]],
    *,
    ids: npt.NDArray[np.int64] | None = None,
    now: Parts | None = None,
) -> Division:
    """Return the part of every row by the plan; `rows` yields the rows again, `ids` and `now` if they have them.

    Raises: SplitRefused.
    """
    count = len(known)
    keys = [] if plan.together == NONE else [known.questions]
    if known.groups is not None:
        keys.append(known.groups)
    if plan.together == "near" and count <= MAX_NEAR_ROWS:
        keys.append(without_templates(near_clusters(rows)))
    to_divide = RowsToDivide(
        ids=np.arange(1, count + 1) if ids is None else ids,
        keys=keys,
        moments=known.moments,
        strata=strata_of(known, plan.stratify),
        parts=known.parts if plan.by == "column" else now,
    )
    return divide(to_divide, plan)


def _watched(path: Path, alive: Callable[[], None]) -> Callable[[], Iterator[CanonicalRow]]:
    def rows() -> Iterator[CanonicalRow]:
        for batch in store.read_batches(path):
            alive()
            yield from store.rows_of(batch)

    return rows


def without_templates(first_near: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return keys of near duplicates, 0 for a row that is near no other or only by a template that many share.

    Rows that a machine wrote by one pattern are all near each other; kept together they could not be divided at all.
    """
    sizes = np.bincount(first_near, minlength=len(first_near))[first_near]
    is_near = (sizes > 1) & (sizes <= max(MAX_NEAR_SHARE * len(first_near), 2))
    return np.where(is_near, first_near + 1, 0)


def strata_of(known: RowFacts, wanted: str) -> Any:
    """Return the values of the fields whose shares shall be equal in all parts, a row each; None without any."""
    if wanted == NONE:
        return None
    names = [one.name for one in known.counts.fields() if one.closed and wanted in (AUTO, one.name)]
    return known.counts.strata(names) if names else None


def write_parts(
    staged: Path, parts: Parts, folder: Path, alive: Callable[[], None] = lambda: None
) -> dict[str, WrittenRows]:
    """Write the rows of a staging file into `<split>.parquet`, each into the part that was found for it."""
    with contextlib.ExitStack() as stack:
        outs = {name: stack.enter_context(RowWriter(folder / f"{name}.parquet")) for name in SPLITS}
        for place, table in store.divided_rows(staged, parts):
            outs[SPLITS[place]].add_table(table)
            alive()
    return {name: out.written() for name, out in outs.items() if out.rows}


def _table(source: Source, limits: Limits) -> Table:
    return open_table(source.path, limits=limits, encoding=source.encoding or None, delimiter=source.delimiter or None)

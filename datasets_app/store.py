"""Canonical rows on disk: one Parquet file per split, written once and read in pages or as a stream.

Nothing here knows the database. Memory is bounded by one row group, whatever the file holds.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from datasets_app.rows import CanonicalRow, FlatRow, Message, row_digest

SPLITS: Final = ("train", "validation", "test")
SCHEMA: Final = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("system", pa.string()),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("answer", pa.string(), nullable=False),
        pa.field("earlier", pa.string()),
        pa.field("group", pa.string(), nullable=False),
        pa.field("at", pa.string(), nullable=False),
        pa.field("rejected", pa.string()),  # missing in files from before there were preferences
    ]
)
COLUMNS: Final = tuple(SCHEMA.names)
STAGING_SCHEMA: Final = SCHEMA.append(pa.field("digest", pa.binary(32), nullable=False))
# A page of rows costs the reading of one group, so groups are small.
ROWS_PER_GROUP: Final = 4_096
CHARACTERS_PER_GROUP: Final = 4_000_000
BYTES_PER_GROUP: Final = 2 * CHARACTERS_PER_GROUP
ROWS_PER_BATCH: Final = 512

# Arrow's own allocator keeps what was freed; the system's gives it back.
pa.set_memory_pool(pa.system_memory_pool())


@dataclass(frozen=True)
class WrittenRows:
    """One file of canonical rows; `sha256` is of what its rows say, wherever they came from."""

    rows: int
    sha256: str
    size_bytes: int


def content_hash(written: Mapping[str, WrittenRows]) -> str:
    """Return the sha256 of a version's content: of the splits in their order, each with the hash of its rows."""
    parts = [f"{split}:{written[split].sha256}\n" for split in SPLITS if split in written]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


class RowsHash:
    """The sha256 of rows in their order: of what is said and by whom, not of ids, lines or the file's form."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, messages: Sequence[Message], rejected: str = "") -> None:
        """Take in one conversation."""
        self._hash.update(row_digest(messages, rejected))

    def add_digests(self, digests: bytes | memoryview) -> None:
        """Take in rows by their digests, one after the other."""
        self._hash.update(digests)

    def hexdigest(self) -> str:
        """Return the hash so far."""
        return self._hash.hexdigest()


def rows_hash(path: Path) -> str:
    """Return the sha256 of what a file's rows say, as it was told when they were written. Raises: FileNotFoundError."""
    found = RowsHash()
    for row in read_rows(path):
        found.add(row.messages, row.rejected)
    return found.hexdigest()


class RowWriter:
    """Rows written beside their final place, and moved there when all is well and on disk; no rows leave no file.

    A staging file also keeps the digest of each row, so that its rows can be divided without reading their texts.
    """

    def __init__(self, path: Path, *, staging: bool = False) -> None:
        self.path = path
        self.rows = 0
        self._schema = STAGING_SCHEMA if staging else SCHEMA
        self._size_bytes = 0
        self._hash = RowsHash()
        self._aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        self._waiting: list[tuple[int, FlatRow]] = []
        self._batches: list[pa.RecordBatch] = []
        self._converted = self._characters = 0

    def __enter__(self) -> RowWriter:
        self._file = self._aside.open("xb")
        try:
            self._writer = _open_writer(self._file, self._schema)
        except BaseException:
            self._file.close()
            self._aside.unlink(missing_ok=True)
            raise
        return self

    def add(self, row: CanonicalRow) -> None:
        """Append one row; its id must have been given."""
        *before, asked, answered = row.messages
        system = before.pop(0)["content"] if before and before[0]["role"] == "system" else None
        digest = row_digest(row.messages, row.rejected)
        texts = (asked["content"], answered["content"], before or None)
        flat = FlatRow(row.row, system, *texts, digest, row.group, row.at, rejected=row.rejected)
        self.add_flat(row.id, flat)

    def add_flat(self, number: int, row: FlatRow) -> None:
        """Append one row, with its id, as the columns that it is made of."""
        waiting = self._waiting
        waiting.append((number, row))
        self.rows += 1
        characters = len(row.prompt) + len(row.answer)
        if row.system or row.rejected or row.earlier:
            characters += len(row.system or "") + len(row.rejected)
            characters += sum(len(message["content"]) for message in row.earlier or ())
        self._characters += characters
        if len(waiting) >= ROWS_PER_BATCH:
            self._convert()
        if self._converted >= ROWS_PER_GROUP or self._characters > CHARACTERS_PER_GROUP:
            self._flush()

    def add_table(self, table: pa.Table) -> None:
        """Append rows of a staging file."""
        self._flush()
        groups = max(1, table.nbytes // BYTES_PER_GROUP)
        rows = max(1, min(ROWS_PER_GROUP, table.num_rows // groups))
        for batch in table.combine_chunks().to_batches(max_chunksize=rows):
            self._hash.add_digests(_digests_of(batch))
            self._writer.write_batch(batch.select(self._schema.names))
            self.rows += batch.num_rows

    def written(self) -> WrittenRows:
        """Return what the file holds; call it after the block."""
        return WrittenRows(self.rows, self._hash.hexdigest(), self._size_bytes)

    def _convert(self) -> None:
        """Turn the texts at hand into Arrow's form; in small numbers they are still in the processor's cache."""
        if not self._waiting:
            return
        numbers, rows = zip(*self._waiting, strict=True)
        digests = [row.digest for row in rows]
        self._hash.add_digests(b"".join(digests))
        columns: list[Sequence[Any]] = [
            numbers,
            [row.row for row in rows],
            [row.system for row in rows],
            [row.prompt for row in rows],
            [row.answer for row in rows],
            [_write_json(row.earlier) if row.earlier else None for row in rows],
            [row.group for row in rows],
            [row.at for row in rows],
            [row.rejected or None for row in rows],
            digests,
        ]
        arrays = [_array(values, field.type) for values, field in zip(columns, self._schema, strict=False)]
        self._batches.append(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
        self._converted += len(rows)
        self._waiting.clear()

    def _flush(self) -> None:
        """Write the rows at hand as a row group."""
        self._convert()
        if self._batches:
            self._writer.write_table(pa.Table.from_batches(self._batches), row_group_size=CHARACTERS_PER_GROUP)
        self._batches.clear()
        self._converted = self._characters = 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._file:
                if error is None:
                    self._flush()
                self._writer.close()
                if error is None:
                    self._file.flush()
                    os.fsync(self._file.fileno())
                    self._size_bytes = self._file.tell() if self.rows else 0
            if error is None and self.rows:
                self._aside.replace(self.path)
                _sync_folder(self.path.parent)
        finally:
            self._aside.unlink(missing_ok=True)


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Return a column; most tables have one text, or none, in all rows of some of them."""
    first = values[0]
    if (first is None or isinstance(first, str)) and values.count(first) == len(values):
        return pa.nulls(len(values), kind) if first is None else pa.repeat(pa.scalar(first, kind), len(values))
    return pa.array(values, kind)


def _open_writer(target: Any, schema: pa.Schema) -> pq.ParquetWriter:
    """Return a Parquet writer with our settings; each batch written becomes a row group."""
    return pq.ParquetWriter(
        target,
        schema,
        compression="lz4" if schema is STAGING_SCHEMA else "zstd",
        use_dictionary=["system", "answer", "group", "at"],  # prompts hardly ever repeat
        write_statistics=["id"],  # finds a row by its id; of texts they would be copies
    )


def _digests_of(batch: pa.RecordBatch) -> bytes | memoryview:
    column = batch.column("digest")
    width = column.type.byte_width
    return memoryview(column.buffers()[1])[column.offset * width : (column.offset + len(column)) * width]


def write_rows(path: Path, rows: Iterable[CanonicalRow]) -> WrittenRows:
    """Write rows, with their ids, to a file that appears complete or not at all."""
    with RowWriter(path) as out:
        for row in rows:
            out.add(row)
    return out.written()


def read_rows(path: Path) -> Iterator[CanonicalRow]:
    """Yield all rows of a file. Raises: FileNotFoundError."""
    for batch in read_batches(path):
        yield from rows_of(batch)


def read_batches(
    path: Path, columns: Sequence[str] = COLUMNS, *, rows: int = ROWS_PER_BATCH
) -> Iterator[pa.RecordBatch]:
    """Yield the chosen columns of a file in batches of at most `rows`. Raises: FileNotFoundError."""
    with _opened(path) as file:
        yield from file.iter_batches(batch_size=rows, columns=list(columns), use_threads=False)


def divided_rows(staged: Path, parts: Any) -> Iterator[tuple[int, pa.Table]]:
    """Yield the rows of a staging file by the part of each (an array of small integers), some thousand at a time."""
    waiting: dict[int, list[pa.Table]] = {}
    first = 0
    with _opened(staged) as file:
        for number in range(file.metadata.num_row_groups):
            group = file.read_row_group(number, use_threads=False)
            here = pa.array(parts[first : first + group.num_rows])
            first += group.num_rows
            for part in here.unique().to_pylist():
                tables = waiting.setdefault(part, [])
                tables.append(group.filter(pa.compute.equal(here, part)))
                is_long = sum(table.num_rows for table in tables) >= ROWS_PER_GROUP
                if is_long or sum(table.nbytes for table in tables) >= BYTES_PER_GROUP:
                    yield part, pa.concat_tables(waiting.pop(part))
    for part, tables in waiting.items():
        yield part, pa.concat_tables(tables)


def count_rows(path: Path) -> int:
    """Return how many rows a file holds. Raises: FileNotFoundError."""
    with _opened(path) as file:
        return int(file.metadata.num_rows)


def read_slice(path: Path, start: int, stop: int) -> list[CanonicalRow]:
    """Return the rows from place `start` up to, not including, `stop`; only their row groups are read."""
    found: list[CanonicalRow] = []
    with _opened(path) as file:
        first = 0
        for number in range(file.metadata.num_row_groups):
            last = first + file.metadata.row_group(number).num_rows
            if first < stop and start < last:
                group = file.read_row_group(number, use_threads=False)
                begin = max(start - first, 0)
                for batch in group.slice(begin, min(stop, last) - first - begin).to_batches():
                    found += rows_of(batch)
            first = last
    return found


def read_all_ids(path: Path) -> set[int]:
    """Return the ids of all rows of a file."""
    return {number for batch in read_batches(path, ["id"]) for number in batch.column("id").to_pylist()}


def read_ids(path: Path, ids: Iterable[int]) -> list[CanonicalRow]:
    """Return the rows with these ids, in the order of the file; only row groups that may hold one are read."""
    wanted = sorted(set(ids))
    found: list[CanonicalRow] = []
    if not wanted:
        return found
    chosen = pa.array(wanted, pa.int64())
    with _opened(path) as file:
        for number in range(file.metadata.num_row_groups):
            known = file.metadata.row_group(number).column(0).statistics
            if known is not None and known.has_min_max and (known.max < wanted[0] or known.min > wanted[-1]):
                continue
            group = file.read_row_group(number, use_threads=False)
            for batch in group.filter(pa.compute.is_in(group["id"], chosen)).to_batches():
                found += rows_of(batch)
    return found


def rows_of(batch: pa.RecordBatch) -> Iterator[CanonicalRow]:
    """Yield the rows of a batch that has all columns."""
    for number, row in zip(batch.column("id").to_pylist(), flat_rows(batch), strict=True):
        yield CanonicalRow(row.row, row.messages, number, row.group, row.at, row.rejected)


def flat_rows(batch: pa.RecordBatch) -> Iterator[FlatRow]:
    """Yield the rows of a batch as the columns that they are made of, without ids and digests."""
    known = set(batch.schema.names)
    columns = [batch.column(name).to_pylist() if name in known else [None] * len(batch) for name in COLUMNS[1:]]
    for line, system, prompt, answer, earlier, group, at, rejected in zip(*columns, strict=True):
        turns = None if earlier is None else json.loads(earlier)
        yield FlatRow(line, system, prompt, answer, turns, b"", group, at, rejected=rejected or "")


def json_lines(path: Path) -> Iterator[bytes]:
    """Yield the rows of a file as JSON lines, as the trainer reads them, some hundred at a time."""
    for batch in read_batches(path):
        yield "".join(row.to_json() + "\n" for row in rows_of(batch)).encode()


def export_jsonl(path: Path, out_path: Path) -> None:
    """Write the rows of a file as JSON lines to another one, which appears complete or not at all."""
    aside = out_path.with_name(f".{out_path.name}.{secrets.token_hex(4)}.part")
    try:
        with aside.open("xb") as out:
            for block in json_lines(path):
                out.write(block)
            out.flush()
            os.fsync(out.fileno())
        aside.replace(out_path)
    finally:
        aside.unlink(missing_ok=True)


def read_jsonl(path: Path) -> Iterator[CanonicalRow]:
    """Yield the rows of a file of JSON lines that was made here."""
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            yield CanonicalRow.from_json(line)


def _opened(path: Path) -> pq.ParquetFile:
    if not path.exists():
        raise FileNotFoundError(path)
    return pq.ParquetFile(path, pre_buffer=False, memory_map=False)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_write_json: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

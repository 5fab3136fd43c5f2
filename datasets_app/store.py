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
import pyarrow.parquet as pq

from datasets_app.rows import CanonicalRow, Message

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
    ]
)
COLUMNS: Final = tuple(SCHEMA.names)
# A page of rows costs the reading of one group, so groups are small.
ROWS_PER_GROUP: Final = 4_096
CHARACTERS_PER_GROUP: Final = 4_000_000
ROWS_PER_BATCH: Final = 1_024

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

    def add(self, messages: Sequence[Message]) -> None:
        """Take in one conversation."""
        # No text contains NUL, so the parts cannot run into each other; the count says where a row ends.
        parts = [str(len(messages))]
        for message in messages:
            parts += message["role"], message["content"]
        self._hash.update("\0".join(parts).encode() + b"\0")

    def hexdigest(self) -> str:
        """Return the hash so far."""
        return self._hash.hexdigest()


class RowWriter:
    """Rows written beside their final place, and moved there when all is well and on disk; no rows leave no file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = 0
        self._size_bytes = 0
        self._hash = RowsHash()
        self._aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        self._columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
        self._characters = 0

    def __enter__(self) -> RowWriter:
        self._file = self._aside.open("xb")
        try:
            self._writer = open_writer(self._file, SCHEMA)
        except BaseException:
            self._file.close()
            self._aside.unlink(missing_ok=True)
            raise
        return self

    def add(self, row: CanonicalRow) -> None:
        """Append one row; its id must have been given."""
        self._hash.add(row.messages)
        columns, messages = self._columns, row.messages
        *before, asked, answered = messages
        system = before.pop(0)["content"] if before and before[0]["role"] == "system" else None
        prompt, answer = asked["content"], answered["content"]
        columns["id"].append(row.id)
        columns["row"].append(row.row)
        columns["system"].append(system)
        columns["prompt"].append(prompt)
        columns["answer"].append(answer)
        columns["earlier"].append(_write_json(before) if before else None)
        columns["group"].append(row.group)
        columns["at"].append(row.at)
        self.rows += 1
        self._characters += len(prompt) + len(answer)
        if before:
            self._characters += len(columns["earlier"][-1])
        if len(columns["id"]) >= ROWS_PER_GROUP or self._characters > CHARACTERS_PER_GROUP:
            self._flush()

    def written(self) -> WrittenRows:
        """Return what the file holds; call it after the block."""
        return WrittenRows(self.rows, self._hash.hexdigest(), self._size_bytes)

    def _flush(self) -> None:
        if not self._columns["id"]:
            return
        arrays = [pa.array(self._columns[field.name], field.type) for field in SCHEMA]
        self._writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=SCHEMA))
        for column in self._columns.values():
            column.clear()
        self._characters = 0

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


def open_writer(target: Any, schema: pa.Schema) -> pq.ParquetWriter:
    """Return a Parquet writer with our settings; each batch written becomes a row group."""
    named = [name for name in ("system", "answer", "group", "at") if name in schema.names]
    return pq.ParquetWriter(
        target,
        schema,
        compression="zstd",
        compression_level=1,
        use_dictionary=named,  # prompts hardly ever repeat
        write_statistics=["id"],  # finds a row by its id; of texts they would be copies
    )


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
    for number, line, system, prompt, answer, earlier, group, at in zip(
        *(batch.column(name).to_pylist() for name in COLUMNS), strict=True
    ):
        messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        if earlier is not None:
            messages += json.loads(earlier)
        messages += {"role": "user", "content": prompt}, {"role": "assistant", "content": answer}
        yield CanonicalRow(line, tuple(messages), number, group, at)


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

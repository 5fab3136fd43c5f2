"""Parquet files: read by pieces, after their own account of rows and sizes was compared with the limits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from datasets_app.readers.containers.cells import as_cell
from datasets_app.readers.containers.lines_out import LinesOut, Unpacked
from datasets_app.readers.faults import FileRefused
from datasets_app.readers.header import checked_columns
from datasets_app.readers.limits import MIB, Limits

ROWS_PER_PIECE: Final = 1_000
# The footer is read whole before anything is known about the file.
MAX_FOOTER_BYTES: Final = 16 * MIB
ENCRYPTED: Final = b"PARE"


def unpack(path: Path, out: Path, part: str, limits: Limits) -> Unpacked:
    """Write the rows to `out`, line number = row number. Raises: FileRefused."""
    _check_ends(path)
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(path, thrift_container_size_limit=1_000_000, pre_buffer=False)
        columns = _checked(table.metadata, table.schema_arrow, limits)
        with LinesOut(out, limits, packed_bytes=path.stat().st_size) as lines:
            for number, row in enumerate(_rows(table, columns), 1):
                lines.add(number, row)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError, pyarrow.ArrowTypeError, UnicodeDecodeError):
        raise FileRefused("container_damaged") from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise FileRefused("container_damaged") from None  # how Arrow reports pages that do not unpack
    return Unpacked("parquet")


def _check_ends(path: Path) -> None:
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(4)
        file.seek(max(0, size_bytes - 8))
        tail = file.read(8)
    if ENCRYPTED in (head, tail[4:]):
        raise FileRefused("parquet_encrypted")
    if size_bytes < 12 or tail[4:] != b"PAR1":
        raise FileRefused("container_damaged")
    if int.from_bytes(tail[:4], "little") > MAX_FOOTER_BYTES:
        raise FileRefused("container_damaged")


def _checked(metadata: Any, schema: Any, limits: Limits) -> tuple[str, ...]:
    """Return the names of the columns. Raises: FileRefused if the file by its own account exceeds a limit."""
    if metadata.num_rows > limits.max_rows:
        raise FileRefused("too_many_rows", limit=limits.max_rows)
    unpacked = sum(metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups))
    if unpacked > limits.max_unpacked_bytes:
        raise FileRefused("unpacked_too_large", limit=limits.max_unpacked_bytes // MIB)
    # pandas keeps its index as a column of its own
    names = [name for name in schema.names if not name.startswith("__index_level_")]
    return checked_columns(names, limits)


def _rows(table: Any, columns: tuple[str, ...]) -> Iterator[dict[str, object]]:
    for piece in table.iter_batches(batch_size=ROWS_PER_PIECE, columns=list(columns), use_threads=False):
        values = [_values(piece.column(name)) for name in columns]
        for cells in zip(*values, strict=True):
            yield dict(zip(columns, map(as_cell, cells), strict=True))


def _values(column: Any) -> list[object]:
    """Return the values of a column; text that is not UTF-8 comes with half characters, for the reader to report."""
    import pyarrow

    if pyarrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    try:
        found: list[object] = column.to_pylist()
    except UnicodeDecodeError:
        if not (pyarrow.types.is_string(column.type) or pyarrow.types.is_large_string(column.type)):
            raise
        large = pyarrow.types.is_large_string(column.type)
        found = column.view(pyarrow.large_binary() if large else pyarrow.binary()).to_pylist()
    return found

"""Make one file of the pieces in which a split is stored. Runs in the capped child; knows no Django."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from datasets_app.readers.faults import FileRefused

BLOCK_BYTES: Final = 1 << 20
LONGEST_HEADER: Final = 1 << 20
ROWS_PER_PIECE: Final = 2_000
TEXT_KINDS: Final = frozenset({".csv", ".tsv", ".tab", ".txt", ".jsonl", ".ndjson"})
PARQUET_KINDS: Final = frozenset({".parquet", ".pq"})
HEADLESS: Final = frozenset({".jsonl", ".ndjson"})


def join(say: Callable[[dict[str, Any]], None], paths: list[str], out: str, kind: str) -> dict[str, Any]:
    """Write the pieces one after the other to `out`. Raises: FileRefused if they are not of one table."""
    pieces, whole = [Path(path) for path in paths], Path(out)
    if kind in PARQUET_KINDS:
        _join_parquet(pieces, whole)
    elif kind in TEXT_KINDS:
        _join_text(pieces, whole, has_header=kind not in HEADLESS)
    else:
        raise FileRefused("shards_of_this_kind")
    return {"pieces": len(pieces)}


def _join_text(pieces: list[Path], whole: Path, *, has_header: bool) -> None:
    with whole.open("xb") as out:
        header = b""
        for number, piece in enumerate(pieces):
            with piece.open("rb") as file:
                if has_header:
                    first = file.readline(LONGEST_HEADER)
                    if number and first.rstrip() != header.rstrip():
                        raise FileRefused("shards_differ")
                    header = first
                    if not number:
                        out.write(first)
                shutil.copyfileobj(file, out, BLOCK_BYTES)
                if _ends_open(piece):
                    out.write(b"\n")


def _ends_open(piece: Path) -> bool:
    with piece.open("rb") as file:
        file.seek(0, 2)
        if not file.tell():
            return False
        file.seek(-1, 2)
        return file.read(1) not in (b"\n", b"\r")


def _join_parquet(pieces: list[Path], whole: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    try:
        schema = parquet.read_schema(pieces[0]).remove_metadata()
        with parquet.ParquetWriter(whole, schema, compression="zstd") as out:
            for piece in pieces:
                table = parquet.ParquetFile(piece, thrift_container_size_limit=1_000_000, pre_buffer=False)
                if table.schema_arrow.names != schema.names:
                    raise FileRefused("shards_differ")
                for batch in table.iter_batches(batch_size=ROWS_PER_PIECE, use_threads=False):
                    out.write_batch(batch.cast(schema).replace_schema_metadata(None))
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError, pyarrow.ArrowTypeError, UnicodeDecodeError):
        raise FileRefused("container_damaged") from None

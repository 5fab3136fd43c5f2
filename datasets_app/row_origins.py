"""From which file each row of a version came, for figures by source."""

from __future__ import annotations

from collections.abc import Callable

from datasets_app import store
from datasets_app.models import DatasetVersion, Split
from datasets_app.sources import in_order

ADDED = "added"
UNKNOWN = "unknown"


def origins(version: DatasetVersion, split: Split) -> list[str]:
    """Return the name of the file that each row of a split came from, in the order of the rows; call it in row scope.

    ADDED for rows that people wrote in the portal, UNKNOWN where the first version, which had the files, is gone.
    Raises: FileNotFoundError.
    """
    file_of = _file_of(_first(version))
    found: list[str] = []
    for batch in store.read_batches(version.rows_path(split), ["id", "row"]):
        numbers, lines = batch.column("id").to_pylist(), batch.column("row").to_pylist()
        found += [file_of(number) if line else ADDED for number, line in zip(numbers, lines, strict=True)]
    return found


def _first(version: DatasetVersion) -> DatasetVersion:
    while version.parent is not None:
        version = version.parent
    return version


def _file_of(first: DatasetVersion) -> Callable[[int], str]:
    """Return a function from a row's id to its file: ids were given in reading order, file after file."""
    ends: list[tuple[int, str]] = []
    end = 0
    files = [] if first.is_derived else in_order(first)
    for source in files:
        end += first.row_count(source.split) if len(files) > 1 else first.total_rows
        ends.append((end, f"{source.name} · {source.part}" if source.part else source.name))
    return lambda number: next((name for last, name in ends if number <= last), UNKNOWN)

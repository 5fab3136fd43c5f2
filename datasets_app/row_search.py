"""Finding rows of a version by their text, by a field of their JSON answer or by their numbers.

Nothing here knows the database. The files are walked group by group until a page is full or the time is up, so an
answer comes soon however many rows there are; `Found.next` says where to go on.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datasets_app.fields import json_object, label_of
from datasets_app.models import Split
from datasets_app.rows import CanonicalRow
from datasets_app.store import rows_of

SECONDS_PER_SEARCH: Final = 1.5
# So many rows are looked at however slow the machine is: small datasets give one whole answer.
ROWS_ALWAYS_SEARCHED: Final = 20_000
_TEXTS: Final = ("prompt", "answer", "system", "earlier")
_PLAIN: Final = re.compile(r"[\x20\x21\x23-\x5b\x5d-\x7e]*")  # what JSON writes in one way only


@dataclass(frozen=True)
class Query:
    """What is looked for: a text in any message, a field with one of its values, rows by number; all of it at once."""

    text: str = ""
    field: str = ""
    value: str = ""
    ids: frozenset[int] | None = None

    def __bool__(self) -> bool:
        """Tell whether anything is looked for."""
        return bool(self.text or self.field) or self.ids is not None


@dataclass(frozen=True)
class Place:
    """A place in a version's files: the split, and the row's place in it."""

    split: Split
    row: int

    def __str__(self) -> str:
        return f"{self.split.value}:{self.row}"

    @classmethod
    def parse(cls, text: str) -> Place | None:
        """Return the place that `str` wrote, or None for anything else."""
        split, colon, row = text.partition(":")
        if not colon or split not in Split.values or not re.fullmatch(r"[0-9]{1,12}", row):
            return None
        return cls(Split(split), int(row))


@dataclass(frozen=True)
class Found:
    """A page of rows with their splits; `next` is None at the end, `is_full` False if only the time was up."""

    rows: tuple[tuple[Split, CanonicalRow], ...]
    next: Place | None
    searched: int
    is_full: bool


def find(
    paths: Mapping[Split, Path],
    query: Query,
    *,
    count: int,
    after: Place | None = None,
    seconds: float = SECONDS_PER_SEARCH,
) -> Found:
    """Return the next rows that fit, from the place `after` on. Raises: OSError for a missing file."""
    ends_s = time.monotonic() + seconds
    wanted = None if query.ids is None else pa.array(sorted(query.ids), pa.int64())
    rows: list[tuple[Split, CanonicalRow]] = []
    searched = 0
    for split, first, group in _groups(paths, wanted, after):
        for place, row in _matches(group, query, wanted):
            if after and split == after.split and first + place < after.row:
                continue
            if len(rows) == count:
                return Found(tuple(rows), Place(split, first + place), searched, is_full=True)
            rows.append((split, row))
        searched += group.num_rows
        if searched >= ROWS_ALWAYS_SEARCHED and time.monotonic() > ends_s:
            return Found(tuple(rows), Place(split, first + group.num_rows), searched, is_full=False)
    return Found(tuple(rows), None, searched, is_full=len(rows) == count)


def _groups(
    paths: Mapping[Split, Path], wanted: pa.Array | None, after: Place | None
) -> Iterator[tuple[Split, int, pa.Table]]:
    """Yield (split, place of the first row, rows) of every group that may hold something."""
    order = list(Split)
    for split, path in paths.items():
        if after and order.index(split) < order.index(after.split):
            continue
        with pq.ParquetFile(path, pre_buffer=False, memory_map=False) as file:
            first = 0
            for number in range(file.metadata.num_row_groups):
                known = file.metadata.row_group(number)
                is_before = after is not None and split == after.split and first + known.num_rows <= after.row
                if not is_before and not _cannot_hold(known, wanted):
                    yield split, first, file.read_row_group(number, use_threads=False)
                first += known.num_rows


def _cannot_hold(group: Any, wanted: pa.Array | None) -> bool:
    """Tell by the lowest and highest id of a group that none of the wanted ones is in it."""
    if wanted is None:
        return False
    if not len(wanted):
        return True
    known = group.column(0).statistics
    return bool(
        known is not None and known.has_min_max and (known.max < wanted[0].as_py() or known.min > wanted[-1].as_py())
    )


def _matches(group: pa.Table, query: Query, wanted: pa.Array | None) -> Iterator[tuple[int, CanonicalRow]]:
    """Yield the rows of a group that fit, with their places in it."""
    fits = pa.chunked_array([pa.array([True] * group.num_rows)])
    if wanted is not None:
        fits = pc.is_in(group["id"], wanted)
    if query.text:
        fits = pc.and_(fits, _contains(group, query.text))
    if query.field and _PLAIN.fullmatch(query.field):
        fits = pc.and_(fits, pc.match_substring(group["answer"], f'"{query.field}"'))
    places = pc.indices_nonzero(fits)
    if not len(places):
        return
    chosen = group.take(places)
    numbered = iter(places.to_pylist())
    for batch in chosen.to_batches():
        for row in rows_of(batch):
            place = next(numbered)
            if not query.field or has_value(row.answer, query.field, query.value):
                yield place, row


def _contains(group: pa.Table, text: str) -> pa.ChunkedArray:
    found: Sequence[pa.ChunkedArray] = [
        pc.fill_null(pc.match_substring(group[name], text, ignore_case=True), fill_value=False) for name in _TEXTS
    ]
    fits = found[0]
    for other in found[1:]:
        fits = pc.or_(fits, other)
    return fits


def has_value(answer: str, field: str, value: str) -> bool:
    """Tell whether a JSON answer has `value` (a label, see `fields.label_of`) in a field; "" fits any value."""
    members = json_object(answer)
    return members is not None and field in members and value in ("", label_of(members[field]))

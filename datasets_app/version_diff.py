"""What differs between two versions: rows added, removed, changed and moved, and how the files were read.

Rows of versions that come from each other are matched by their ids, rows of separate imports by what is asked.
Versions never change, so what was compared once is kept for a while. Memory: some 40 bytes for each row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import numpy as np
import numpy.typing as npt

from datasets_app import store
from datasets_app.models import DatasetVersion, Split
from datasets_app.stored_rows import present_paths

KINDS: Final = ("changed", "added", "removed", "moved")
_ROW: Final = np.dtype([("key", "<u8"), ("id", "<i8"), ("split", "i1"), ("content", "<u8")])
_ORDER: Final = list(Split)
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Difference:
    """Ids of rows: of the new version for `added`, of the old one for `removed`, of both for the others."""

    added: Ids
    removed: Ids
    changed: tuple[Ids, Ids]
    moved: tuple[Ids, Ids]
    same: int

    @property
    def counts(self) -> dict[str, int]:
        """How many rows of each kind there are, and how many stayed."""
        return {
            "changed": len(self.changed[0]),
            "added": len(self.added),
            "removed": len(self.removed),
            "moved": len(self.moved[0]),
            "same": self.same,
        }

    def pairs(self, kind: str) -> list[tuple[int | None, int | None]]:
        """Return (id in the old version, id in the new one) of the rows of a kind."""
        if kind == "added":
            return [(None, number) for number in self.added.tolist()]
        if kind == "removed":
            return [(number, None) for number in self.removed.tolist()]
        old, new = self.changed if kind == "changed" else self.moved
        return list(zip(old.tolist(), new.tolist(), strict=True))


def compare(old: DatasetVersion, new: DatasetVersion) -> Difference:
    """Return how the rows of two ready versions of a dataset differ. Raises: Unavailable if a file is missing."""
    files = tuple(tuple((split.value, str(path)) for split, path in present_paths(one).items()) for one in (old, new))
    return _compare(files[0], files[1], are_related(old, new))


def are_related(one: DatasetVersion, other: DatasetVersion) -> bool:
    """Tell whether one version was made from the other, or both from a third, so that their rows share ids."""
    versions = one.dataset.versions(manager="with_deleted").values_list("pk", "parent")
    parents: dict[UUID, UUID | None] = dict(versions)
    return _root(one.pk, parents) == _root(other.pk, parents)


def _root(pk: UUID, parents: Mapping[UUID, UUID | None]) -> UUID:
    while (parent := parents.get(pk)) is not None:
        pk = parent
    return pk


@lru_cache(maxsize=8)
def _compare(old: tuple[tuple[str, str], ...], new: tuple[tuple[str, str], ...], by_id: bool) -> Difference:
    before, after = (_rows(files, by_id=by_id) for files in (old, new))
    _keys, in_old, in_new = np.intersect1d(before["key"], after["key"], assume_unique=True, return_indices=True)
    kept, now = before[in_old], after[in_new]
    is_changed = kept["content"] != now["content"]
    is_moved = (kept["split"] != now["split"]) & ~is_changed
    return Difference(
        added=np.sort(np.delete(after["id"], in_new)),
        removed=np.sort(np.delete(before["id"], in_old)),
        changed=_by_id(kept["id"][is_changed], now["id"][is_changed]),
        moved=_by_id(kept["id"][is_moved], now["id"][is_moved]),
        same=int(np.count_nonzero(~is_changed & ~is_moved)),
    )


def _by_id(old: Ids, new: Ids) -> tuple[Ids, Ids]:
    order = np.argsort(new, kind="stable")
    return old[order], new[order]


def _rows(files: tuple[tuple[str, str], ...], *, by_id: bool) -> npt.NDArray[Any]:
    paths = {Split(split): Path(path) for split, path in files}
    count = sum(store.count_rows(path) for path in paths.values())
    return np.fromiter(_entries(paths, by_id=by_id), dtype=_ROW, count=count)


def _entries(paths: Mapping[Split, Path], *, by_id: bool) -> Iterator[tuple[int, int, int, int]]:
    seen: dict[int, int] = {}
    columns = ("id", "system", "prompt", "answer", "earlier")
    for split, path in paths.items():
        place = _ORDER.index(split)
        for batch in store.read_batches(path, columns, rows=4_096):
            for number, system, prompt, answer, earlier in zip(
                *(batch.column(name).to_pylist() for name in columns), strict=True
            ):
                asked = (system, earlier, prompt)
                key = number
                if not by_id:
                    key = _short(asked)
                    # The same question again: the second is matched with the second of the other version.
                    seen[key] = again = seen.get(key, -1) + 1
                    key = _short((again, asked)) if again else key
                yield key, number, place, _short((asked, answer))


def _short(value: object) -> int:
    """Return 64 bits of a hash that holds within this process, as does what is kept of a comparison."""
    return hash(value) & 0xFFFFFFFFFFFFFFFF


def settings_changes(old: DatasetVersion, new: DatasetVersion) -> list[tuple[str, object, object]]:
    """Return (name, before, after) of what differs in mapping, options and fields of the answers."""
    found: list[tuple[str, object, object]] = []
    for before, after in ((old.mapping, new.mapping), (old.options, new.options)):
        names = [*before, *(name for name in after if name not in before)]
        found += [(name, before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)]
    fields = [{one["name"]: one["values"] for one in version.report.get("fields", [])} for version in (old, new)]
    for name in [*fields[0], *(name for name in fields[1] if name not in fields[0])]:
        values = [set(side[name]) if name in side else None for side in fields]
        if values[0] != values[1]:
            found.append((name, _listed(values[0], values[1]), _listed(values[1], values[0])))
    return found


def _listed(own: set[str] | None, other: set[str] | None) -> str | None:
    """Return the values that only this side has."""
    return None if own is None else ", ".join(sorted(own - (other or set()))[:20])

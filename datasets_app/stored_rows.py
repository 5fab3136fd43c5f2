"""The canonical rows of a version: as a sequence that paginators can cut pages from, and as JSON lines."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

from django.utils.translation import gettext as _

from datasets_app import store
from datasets_app.fields import load_json
from datasets_app.models import DatasetVersion, Split
from datasets_app.rows import CanonicalRow
from portal.errors import Unavailable
from portal.rls import team_scope


class StoredRows(Sequence[CanonicalRow]):
    """The rows of one split, read from the file as asked for."""

    def __init__(self, version: DatasetVersion, split: Split | str) -> None:
        self._path = version.rows_path(split)
        self._count = version.row_count(split)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> CanonicalRow: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[CanonicalRow]: ...
    def __getitem__(self, index: int | slice) -> CanonicalRow | Sequence[CanonicalRow]:
        """Return a row, or the rows of a slice."""
        if isinstance(index, slice):
            start, stop, step = index.indices(self._count)
            return self._read(start, stop)[::step] if step > 0 else self._read(0, self._count)[index]
        rows = self._read(range(self._count)[index], range(self._count)[index] + 1)
        return rows[0]

    def _read(self, start: int, stop: int) -> list[CanonicalRow]:
        if start >= stop:
            return []
        try:
            return store.read_slice(self._path, start, stop)
        except (OSError, ValueError):
            raise _missing() from None


def present_paths(version: DatasetVersion) -> dict[Split, Path]:
    """Return the files of the splits that have rows. Raises: Unavailable if one is missing."""
    paths = {split: version.rows_path(split) for split in Split if version.row_count(split)}
    if not all(path.exists() for path in paths.values()):
        raise _missing()
    return paths


def stored_lines(version: DatasetVersion, split: Split | str) -> Iterator[bytes]:
    """Yield the rows of a split as blocks of JSON lines. Raises: Unavailable before the first block."""
    blocks = store.json_lines(version.rows_path(split))
    try:
        first = next(blocks, b"")
    except (OSError, ValueError):
        raise _missing() from None
    return itertools.chain([first], blocks)


def exported(version: DatasetVersion, split: Split | str) -> Path:
    """Return a file with the rows of a split as JSON lines, as the trainer reads them; it is made once and kept.

    Raises: OSError or ValueError if the rows are missing or damaged.
    """
    path = version.export_path(split)
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        store.export_jsonl(version.rows_path(split), path)
        count_storage(version)
    return path


def tokens_folder(version: DatasetVersion) -> Path:
    """Return where the rows of a version are kept as token ids, once a run has encoded them."""
    return version.export_path(Split.TRAIN).parent / "tokens"


def count_storage(version: DatasetVersion) -> None:
    """Note how much place the rows of a version take, exports included: they count against the team's quota."""
    paths = [path for split in Split for path in (version.rows_path(split), version.export_path(split))]
    paths += tokens_folder(version).glob("*.safetensors")
    size_bytes = sum(path.stat().st_size for path in paths if path.exists())
    with team_scope(version.team_id):
        version.team.datasetversions.filter(pk=version.pk).update(size_bytes=size_bytes)


def _missing() -> Unavailable:
    return Unavailable(
        _("The file with these rows is missing on this server. Ask a platform admin to bring it back."),
        code="rows_missing",
    )


def pretty_answer(answer: str) -> list[tuple[str, str]]:
    """Return the fields of a JSON answer as (name, value), or nothing if the answer is plain text."""
    if not answer.startswith("{"):
        return []
    try:
        members = load_json(answer)
    except ValueError:
        return []
    if not isinstance(members, dict):
        return []
    return [(name, _shown(value)) for name, value in members.items()]


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

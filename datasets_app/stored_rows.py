"""The canonical rows of a version as a sequence that paginators can cut pages from."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import overload

from django.utils.translation import gettext as _

from datasets_app.models import DatasetVersion, Split
from datasets_app.rows import CanonicalRow
from portal.errors import Unavailable


class StoredRows(Sequence[CanonicalRow]):
    """The rows of one split, read from the file as asked for; lines before a page are skipped without parsing."""

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
            with self._path.open("rb") as file:
                return [CanonicalRow.from_json(line.decode()) for line in itertools.islice(file, start, stop)]
        except FileNotFoundError:
            raise Unavailable(
                _("The file with these rows is missing on this server. Ask a platform admin to bring it back."),
                code="rows_missing",
            ) from None


def pretty_answer(answer: str) -> list[tuple[str, str]]:
    """Return the fields of a JSON answer as (name, value), or nothing if the answer is plain text."""
    if not answer.startswith("{"):
        return []
    try:
        members = json.loads(answer)
    except ValueError:
        return []
    return [(name, _shown(value)) for name, value in members.items()]


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

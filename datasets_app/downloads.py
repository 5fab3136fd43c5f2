"""Rows of a version as files: JSON lines as the trainer reads them, CSV for spreadsheets, Parquet as it is stored."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import pyarrow.compute as pc
from django.http import FileResponse, HttpResponseBase, StreamingHttpResponse
from django.utils.http import content_disposition_header
from django.utils.text import slugify
from django.utils.translation import gettext as _

from datasets_app import store
from datasets_app.models import DatasetVersion, Split
from datasets_app.readers.own_csv import OWN_COLUMN, harmless_cell
from datasets_app.rows import CanonicalRow
from datasets_app.stored_rows import present_paths, stored_lines
from portal.errors import IllegalTransition, NotFound

ALL: Final = "all"
KINDS: Final = ("jsonl", "csv", "parquet")
CONTENT_TYPES: Final = {"csv": "text/csv", "jsonl": "application/jsonl", "parquet": "application/vnd.apache.parquet"}
ROWS_PER_PIECE: Final = 500
# Spreadsheets take a file for UTF-8 only if it begins so.
BOM: Final = "\ufeff"


def response(version: DatasetVersion, split: str, kind: str) -> HttpResponseBase:
    """Return the download of one split, or of "all" of them as CSV, which then says where each row belongs.

    Raises: NotFound for what there is not; IllegalTransition if the version is not ready; Unavailable.
    """
    if version.status != DatasetVersion.Status.READY:
        raise IllegalTransition(_("This version has no rows yet: it is not ready."), code="not_ready")
    paths = present_paths(version)
    chosen = (
        paths if split == ALL and kind == "csv" else {one: path for one, path in paths.items() if one.value == split}
    )
    if not chosen or kind not in KINDS:
        raise NotFound(_("There are no such rows to download."))
    name = f"{slugify(version.dataset.name, allow_unicode=True) or 'dataset'}-v{version.number}-{split}.{kind}"
    answer = _body(version, chosen, split, kind)
    answer["Content-Disposition"] = content_disposition_header(as_attachment=True, filename=name)
    return answer


def _body(version: DatasetVersion, chosen: Mapping[Split, Path], split: str, kind: str) -> HttpResponseBase:
    if kind == "parquet":
        return FileResponse(chosen[Split(split)].open("rb"), content_type=CONTENT_TYPES[kind])
    if kind == "jsonl":
        return StreamingHttpResponse(stored_lines(version, split), content_type=CONTENT_TYPES[kind])
    return StreamingHttpResponse(csv_pieces(chosen), content_type=f"{CONTENT_TYPES['csv']}; charset=utf-8")


def csv_pieces(paths: Mapping[Split, Path]) -> Iterator[str]:
    """Yield a CSV file that a spreadsheet opens without running anything, and that imports as the same rows."""
    has_turns = _has(paths, "earlier")
    beside = [name for name in ("rejected", "group", "at") if _has(paths, name)]
    texts = ["messages"] if has_turns else ["system", "prompt", "answer"]
    shown = {"rejected": "rejected", "group": "thread_id", "at": "date"}
    writer = csv.writer(_Echo())
    yield BOM + writer.writerow([OWN_COLUMN, "split", *texts, *(shown[name] for name in beside)])
    lines: list[str] = []
    for split, path in paths.items():
        for row in store.read_rows(path):
            cells = _texts(row, has_turns=has_turns) + [getattr(row, name) for name in beside]
            lines.append(writer.writerow([row.id, split.value, *map(harmless_cell, cells)]))
            if len(lines) == ROWS_PER_PIECE:
                yield "".join(lines)
                lines.clear()
    yield "".join(lines)


def _texts(row: CanonicalRow, *, has_turns: bool) -> list[str]:
    if has_turns:
        return [json.dumps(row.messages, ensure_ascii=False)]
    system = row.messages[0]["content"] if row.messages[0]["role"] == "system" else ""
    return [system, row.prompt, row.answer]


def _has(paths: Mapping[Split, Path], column: str) -> bool:
    """Tell whether any row has something in a column."""
    return any(
        batch.num_columns and pc.any(pc.greater(pc.binary_length(batch.column(0)), 0)).as_py()
        for path in paths.values()
        for batch in store.read_batches(path, [column], rows=50_000)
    )


class _Echo:
    """A file that hands back what is written to it."""

    def write(self, text: str) -> str:
        return text

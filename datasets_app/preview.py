"""The first rows as the model will see them: the exact text of the base model's chat template, with its tokens."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from django.utils.translation import gettext as _

from datasets_app.mapping import Mapping as ColumnMapping
from datasets_app.mapping import MappingError
from datasets_app.models import SourceFile
from datasets_app.readers import FileRefused, Record, RowFault
from datasets_app.rendering import ChatRenderer, RenderingError
from datasets_app.rows import CanonicalRow, RowMaker
from datasets_app.sources import Reading, limits, open_source
from portal.models import BaseModel

PREVIEW_ROWS: Final = 5
# Longer texts are cut on the page, never in training; each part of a row may be this long.
SHOWN_CHARACTERS: Final = 4_000


@dataclass(frozen=True)
class SeenRow:
    """One row as the model sees it; `answer_text` is the part that it learns to write. Counts are in tokens."""

    line: int
    prompt_text: str
    answer_text: str
    prompt_tokens: int | None = None
    answer_tokens: int | None = None
    is_cut: bool = False


@dataclass(frozen=True)
class Preview:
    """The first rows under a mapping, the faults among them, or the reason why there are none."""

    rows: tuple[SeenRow, ...] = ()
    faults: tuple[str, ...] = ()
    problem: str = ""
    model_name: str = ""


def preview_source(source: SourceFile, mapping: ColumnMapping, reading: Reading) -> Preview:
    """Return what becomes of the first records of a stored file; problems are part of the answer."""
    try:
        table = open_source(source, reading)
        mapping.validate(table.columns)
    except (FileRefused, MappingError) as error:
        return Preview(problem=error.sentence(_))
    make, rows, faults = RowMaker(mapping, limits()).make, [], []
    for record, _number in zip(table.records(), range(PREVIEW_ROWS), strict=False):
        made = make(record) if isinstance(record, Record) else record
        if isinstance(made, RowFault):
            faults.append(made.sentence(_))
        else:
            rows.append(made)
    seen, model_name = as_seen(rows)
    return Preview(rows=seen, faults=tuple(faults), model_name=model_name)


def as_seen(rows: Iterable[CanonicalRow]) -> tuple[tuple[SeenRow, ...], str]:
    """Return rows as the smallest allowed base model sees them, and its name.

    Without a usable base model the messages are shown under their roles, without token counts, and the name is "".
    """
    model = BaseModel.objects.filter(is_allowed=True).order_by("parameters").first()
    renderer = _renderer(model) if model else None
    seen = tuple(_seen(renderer, row) for row in rows)
    return seen, model.name if model and renderer else ""


def _renderer(model: BaseModel) -> ChatRenderer | None:
    try:
        return _load(model.folder, model.revision)
    except RenderingError:
        return None


@lru_cache(maxsize=2)
def _load(folder: Path, revision: str) -> ChatRenderer:
    return ChatRenderer.load(folder)


def _seen(renderer: ChatRenderer | None, row: CanonicalRow) -> SeenRow:
    try:
        return _rendered(renderer, row) if renderer else _plain(row)
    except RenderingError:  # the template of this base model refuses the conversation; another one may not
        return _plain(row)


def _rendered(renderer: ChatRenderer, row: CanonicalRow) -> SeenRow:
    rendered = renderer.row(row.messages)
    return SeenRow(
        line=row.row,
        prompt_text=rendered.prompt_text[:SHOWN_CHARACTERS],
        answer_text=rendered.answer_text[:SHOWN_CHARACTERS],
        prompt_tokens=rendered.prompt_length,
        answer_tokens=len(rendered.token_ids) - rendered.prompt_length,
        is_cut=max(len(rendered.prompt_text), len(rendered.answer_text)) > SHOWN_CHARACTERS,
    )


def _plain(row: CanonicalRow) -> SeenRow:
    asked = "\n\n".join(f"{message['role']}: {message['content']}" for message in row.messages[:-1])
    return SeenRow(
        line=row.row,
        prompt_text=f"{asked[:SHOWN_CHARACTERS]}\n\nassistant: ",
        answer_text=row.answer[:SHOWN_CHARACTERS],
        is_cut=max(len(asked), len(row.answer)) > SHOWN_CHARACTERS,
    )

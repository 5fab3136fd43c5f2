"""Rows as the model will see them: the exact text of the base model's chat template, cut into its tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Final

from django.utils.translation import gettext as _

from datasets_app.learned_rows import joined, learned_turns
from datasets_app.mapping import Mapping as ColumnMapping
from datasets_app.models import SourceFile
from datasets_app.readers import DataError, Record, RowFault
from datasets_app.rendering import ChatRenderer, Piece, RenderingError
from datasets_app.rows import CanonicalRow, RowMaker
from datasets_app.sources import Reading, open_source
from datasets_app.unpacking import limits
from portal.models import BaseModel

PREVIEW_ROWS: Final = 5
# So far into a file one may leaf; later rows are shown once they are imported.
MOST_SKIPPED: Final = 1_000
# Longer texts are cut on the page, never in training; each part of a row may be this long.
SHOWN_CHARACTERS: Final = 4_000
MOST_TURNS: Final = 9


@dataclass(frozen=True)
class SeenRow:
    """One row as the model sees it; `answer` is the part that it learns to write.

    Both are cut into tokens; without a base model each is one piece, and the counts are None. `line` is None where
    the row's place in its file is not known.
    """

    line: int | None
    prompt: tuple[Piece, ...]
    answer: tuple[Piece, ...]
    prompt_tokens: int | None = None
    answer_tokens: int | None = None
    is_cut: bool = False
    rejected: str = ""
    more: tuple[tuple[tuple[Piece, ...], tuple[Piece, ...]], ...] = ()
    """What follows the first answer where several are learned: given and learned pieces, turn by turn."""

    @property
    def prompt_text(self) -> str:
        """What is given to the model."""
        return "".join(piece.text for piece in self.prompt)

    @property
    def answer_text(self) -> str:
        """What the model learns to write."""
        return "".join(piece.text for piece in self.answer)


@dataclass(frozen=True)
class Preview:
    """A few rows under a mapping, the faults among them, or the reason why there are none.

    `start` records of the file come before them; `before` and `after` are where the neighbouring rows start, None at
    an end.
    """

    rows: tuple[SeenRow, ...] = ()
    faults: tuple[str, ...] = ()
    problem: str = ""
    model_name: str = ""
    start: int = 0
    shown: int = 0
    before: int | None = None
    after: int | None = None

    @property
    def first(self) -> int:
        """The number of the first record shown, counted from 1."""
        return self.start + 1

    @property
    def last(self) -> int:
        """The number of the last record shown."""
        return self.start + self.shown


def preview_source(
    source: SourceFile, mapping: ColumnMapping, reading: Reading, *, start: int = 0, model: BaseModel | None = None
) -> Preview:
    """Return what becomes of a few records of a stored file, from number `start` on; problems are part of the answer.

    Without a `model` the smallest allowed one is taken.
    """
    start = max(0, min(start, MOST_SKIPPED))
    try:
        table = open_source(source, reading)
        mapping.validate(table.columns)
    except DataError as error:
        return Preview(problem=error.sentence(_))
    make, rows, faults = RowMaker(mapping, limits()).make, [], []
    records = list(islice(table.records(), start, start + PREVIEW_ROWS + 1))
    for record in records[:PREVIEW_ROWS]:
        made = make(record) if isinstance(record, Record) else record
        if isinstance(made, RowFault):
            faults.append(made.sentence(_, counts_rows=source.counts_rows))
        else:
            rows.append(made)
    seen, model_name = as_seen(rows, model)
    has_more = len(records) > PREVIEW_ROWS and start + PREVIEW_ROWS <= MOST_SKIPPED
    return Preview(
        rows=seen,
        faults=tuple(faults),
        model_name=model_name,
        start=start,
        shown=min(len(records), PREVIEW_ROWS),
        before=max(0, start - PREVIEW_ROWS) if start else None,
        after=start + PREVIEW_ROWS if has_more else None,
    )


def models_to_choose() -> Sequence[BaseModel]:
    """Return the base models whose tokens a preview can show, the smallest first."""
    return list(BaseModel.objects.filter(is_allowed=True).order_by("parameters", "name"))


def as_seen(rows: Iterable[CanonicalRow], model: BaseModel | None = None) -> tuple[tuple[SeenRow, ...], str]:
    """Return rows as a base model sees them, by default the smallest allowed one, and its name.

    Without a usable base model the messages are shown under their roles, without token counts, and the name is "".
    """
    model = model or next(iter(models_to_choose()), None)
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
    if not row.answer:
        return _text_alone(renderer, row)
    try:
        seen = _rendered(renderer, row) if renderer else _plain(row)
    except RenderingError:  # the template of this base model refuses the conversation; another one may not
        seen = _plain(row)
    return replace(seen, rejected=row.rejected[:SHOWN_CHARACTERS])


def _text_alone(renderer: ChatRenderer | None, row: CanonicalRow) -> SeenRow:
    """Return a text without an answer: all of it is learned, without a chat template."""
    whole = renderer.pieces(row.prompt) if renderer else [Piece(row.prompt, 0)]
    pieces, is_cut = _shortened(whole)
    tokens = sum(piece.tokens for piece in whole) if renderer else None
    return SeenRow(row.row, (), pieces, None if tokens is None else 0, tokens, is_cut)


def _rendered(renderer: ChatRenderer, row: CanonicalRow) -> SeenRow:
    rendered = learned_turns(renderer, row.messages, every=not row.rejected)
    rows = joined(rendered)
    turns: list[tuple[tuple[Piece, ...], tuple[Piece, ...]]] = []
    told, is_cut = "", len(rendered) > MOST_TURNS
    for turn in rendered[:MOST_TURNS]:
        # Where a template tells earlier turns otherwise, the whole prompt stands there again, as it is learned.
        given = turn.prompt_text.removeprefix(told)
        told = turn.prompt_text + turn.answer_text
        prompt, is_prompt_cut = _shortened(renderer.pieces(given))
        answer, is_answer_cut = _shortened(renderer.pieces(turn.answer_text))
        turns.append((prompt, answer))
        is_cut |= is_prompt_cut or is_answer_cut
    return SeenRow(
        line=row.row,
        prompt=turns[0][0],
        answer=turns[0][1],
        prompt_tokens=sum(one.tokens - one.answer_tokens for one in rows),
        answer_tokens=sum(one.answer_tokens for one in rows),
        is_cut=is_cut,
        more=tuple(turns[1:]),
    )


def _shortened(pieces: Sequence[Piece]) -> tuple[tuple[Piece, ...], bool]:
    """Return the pieces that fit on the page, and whether some do not."""
    characters = 0
    for number, piece in enumerate(pieces):
        if (characters := characters + len(piece.text)) > SHOWN_CHARACTERS:
            return (*pieces[:number], Piece("…", 0)), True
    return tuple(pieces), False


def _plain(row: CanonicalRow) -> SeenRow:
    asked = "\n\n".join(f"{message['role']}: {message['content']}" for message in row.messages[:-1])
    return SeenRow(
        line=row.row,
        prompt=(Piece(f"{asked[:SHOWN_CHARACTERS]}\n\nassistant: ", 0),),
        answer=(Piece(row.answer[:SHOWN_CHARACTERS], 0),),
        is_cut=max(len(asked), len(row.answer)) > SHOWN_CHARACTERS,
    )

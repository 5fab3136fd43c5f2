"""`{"op": "add", "rows": [{"prompt": …, "answer": …, "system": …, "split": "train"}]}`: add rows at the end."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from datasets_app.models import Split
from datasets_app.operations.base import ChangeRefused, Context, Door, Operation, PlacedRow, Rows
from datasets_app.operations.texts import is_json_answer, read_text
from datasets_app.rows import CanonicalRow, Message


@dataclass(frozen=True)
class NewRow:
    """A row to be added; `id` is given when the version is derived, so that a repeated attempt gives the same one."""

    prompt: str
    answer: str
    system: str = ""
    split: Split = Split.TRAIN
    id: int = 0

    def row(self) -> CanonicalRow:
        """Return the canonical row; it has no line of a source."""
        system: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        messages = (*system, {"role": "user", "content": self.prompt}, {"role": "assistant", "content": self.answer})
        return CanonicalRow(id=self.id, row=0, messages=messages)


@dataclass(frozen=True)
class Add(Operation):
    """Add rows behind those that are there."""

    name = "add"
    rows: tuple[NewRow, ...]

    def to_dict(self) -> dict[str, object]:
        """Return the rows."""
        return {"rows": [dataclasses.asdict(row) | {"split": row.split.value} for row in self.rows]}

    def numbered(self, first: int) -> Add:
        """Return the operation with its rows numbered from `first` on."""
        return Add(tuple(dataclasses.replace(row, id=first + place) for place, row in enumerate(self.rows)))

    def apply(self, rows: Rows, context: Context) -> Iterator[PlacedRow]:
        """Yield all rows, then the new ones."""
        yield from rows
        for new in self.rows:
            if context.json_answers and not is_json_answer(new.answer):
                raise ChangeRefused("answer_must_be_json", row=new.id)
            yield PlacedRow(new.split, new.row())


def read(door: Door) -> Add:
    """Return the operation from its JSON form."""
    return Add(tuple(_row(each) for each in door.objects("rows")))


def _row(door: Door) -> NewRow:
    row = NewRow(
        prompt=read_text(door, "prompt"),
        answer=read_text(door, "answer"),
        system=read_text(door, "system", may_be_empty=True) if door.has("system") else "",
        split=door.split() if door.has("split") else Split.TRAIN,
        id=door.id() if door.has("id") else 0,
    )
    door.refuse_unknown()
    return row

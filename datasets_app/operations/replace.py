"""`{"op": "replace", "id": 3, "prompt": …, "answer": …, "system": …}`: write texts of one row anew."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial, reduce

from django.utils.translation import gettext as _

from datasets_app.operations.base import (
    ChangeRefused,
    Context,
    Door,
    Operation,
    PlacedRow,
    Rows,
    Stage,
    require_found,
)
from datasets_app.operations.texts import is_json_answer, read_text
from datasets_app.rows import CanonicalRow, Message


@dataclass(frozen=True)
class Replace(Operation):
    """Write texts of one row anew; what is None stays, an empty system prompt takes it away."""

    name = "replace"
    id: int
    prompt: str | None = None
    answer: str | None = None
    system: str | None = None

    def to_dict(self) -> dict[str, object]:
        """Return the number of the row and its new texts."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value is not None}

    def apply(self, rows: Rows, context: Context) -> Iterator[PlacedRow]:
        """Yield all rows, this one with its new texts."""
        return replace_all([self], rows, context)

    @classmethod
    def stages(cls, operations: Sequence[Replace]) -> list[Stage]:
        """Return one walk for all of them: a thousand edited rows are no thousand walks."""
        return [partial(replace_all, operations)]


def replace_all(operations: Sequence[Replace], rows: Rows, context: Context) -> Iterator[PlacedRow]:
    """Yield all rows, those of the operations with their new texts. Raises: ChangeRefused."""
    wanted: dict[int, list[Replace]] = {}
    for one in operations:
        if one.answer is not None and context.json_answers and not is_json_answer(one.answer):
            raise ChangeRefused("answer_must_be_json", row=one.id)
        wanted.setdefault(one.id, []).append(one)
    found = set()
    for placed in rows:
        edits = wanted.get(placed.row.id)
        if edits:
            found.add(placed.row.id)
            placed = placed._replace(row=reduce(rewritten, edits, placed.row))
        yield placed
    require_found(wanted, found)


def rewritten(row: CanonicalRow, texts: Replace) -> CanonicalRow:
    """Return the row with new texts; turns before the last question stay as they are."""
    messages: list[Message] = list(row.messages)
    if texts.prompt is not None:
        messages[-2] = {"role": "user", "content": texts.prompt}
    if texts.answer is not None:
        messages[-1] = {"role": "assistant", "content": texts.answer}
    if texts.system is not None:
        messages = messages[1:] if messages[0]["role"] == "system" else messages
        if texts.system:
            messages.insert(0, {"role": "system", "content": texts.system})
    return dataclasses.replace(row, messages=tuple(messages))


def read(door: Door) -> Replace:
    """Return the operation from its JSON form."""
    operation = Replace(
        id=door.id(),
        prompt=read_text(door, "prompt") if door.has("prompt") else None,
        answer=read_text(door, "answer") if door.has("answer") else None,
        system=read_text(door, "system", may_be_empty=True) if door.has("system") else None,
    )
    if operation.prompt is operation.answer is operation.system is None:
        raise door.refusal("prompt", _("Send a new prompt, answer or system prompt."))
    return operation

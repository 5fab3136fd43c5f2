"""What is wrong with a file (`DataError`) or with one of its rows (`RowFault`)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from datasets_app.readers.sentences import (
    FILE_SENTENCES,
    IN_COLUMN,
    IN_COLUMN_OF_ROW,
    IN_LINE,
    IN_ROW,
    ROW_SENTENCES,
)

Translate = Callable[[str], str]


def untranslated(text: str) -> str:
    """Return the English sentence itself."""
    return text


# Not frozen: millions are made in one pass, and freezing makes each twice as dear.
@dataclass(slots=True)
class Record:
    """One row of a table: the line it begins on and its cells by column name."""

    line: int
    values: dict[str, object]


@dataclass(frozen=True)
class RowFault:
    """Why one row is left out: `line` is where it begins, `column` is None when no single cell is to blame.

    `params` fill the sentence of `code`; they hold positions and sizes, never the text of a cell.
    """

    line: int
    column: str | None
    code: str
    params: Mapping[str, object] = field(default_factory=dict)

    @property
    def message(self) -> str:
        """What is wrong, where, and what to do, in English."""
        return self.sentence(untranslated)

    def sentence(self, translate: Translate, *, counts_rows: bool = False) -> str:
        """Return the message in the language that `translate` (a gettext function) speaks.

        With `counts_rows` the place is called a row: sheets and Parquet files have no lines.
        """
        text = translate(ROW_SENTENCES[self.code]) % dict(self.params)
        if self.column is None:
            return translate(IN_ROW if counts_rows else IN_LINE) % {"line": self.line, "text": text}
        return translate(IN_COLUMN_OF_ROW if counts_rows else IN_COLUMN) % {
            "line": self.line,
            "column": self.column,
            "text": text,
        }

    def to_dict(self) -> dict[str, object]:
        """Return a JSON-ready form, with the English message for readers without a translation."""
        return {
            "line": self.line,
            "column": self.column,
            "code": self.code,
            "params": dict(self.params),
            "message": self.message,
        }


class DataError(ValueError):
    """A file or a mapping that cannot be used at all; carries a `code` and a sentence for people."""

    sentences: ClassVar[Mapping[str, str]] = {}
    # Parameters that are phrases of our own and so have a translation themselves.
    phrases: ClassVar[frozenset[str]] = frozenset({"what", "advice", "reason"})

    def __init__(self, code: str, **params: object) -> None:
        self.code = code
        self.params = params
        super().__init__(self.message)

    @property
    def message(self) -> str:
        """What is wrong and what to do, in English."""
        return self.sentence(untranslated)

    def sentence(self, translate: Translate) -> str:
        """Return the message in the language that `translate` (a gettext function) speaks."""
        params = {name: translate(str(value)) if name in self.phrases else value for name, value in self.params.items()}
        return translate(self.sentences[self.code]) % params


class FileRefused(DataError):
    """The file as a whole cannot be imported."""

    sentences = FILE_SENTENCES

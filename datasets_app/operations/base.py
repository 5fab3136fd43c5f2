"""What all operations on rows share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, NamedTuple, Self

from django.utils.translation import gettext as _

from datasets_app.models import Split
from datasets_app.rows import CanonicalRow
from portal.errors import InvalidInput

MAX_IDS: Final = 1_000_000
MAX_ID: Final = 2**53


class PlacedRow(NamedTuple):
    """A row, and the split in which it stands."""

    split: Split
    row: CanonicalRow


class Rows(ABC):
    """Rows that can be walked through from the beginning as often as needed, one at a time."""

    @abstractmethod
    def __iter__(self) -> Iterator[PlacedRow]: ...


@dataclass(frozen=True)
class Context:
    """What an operation may need to know about the version that it changes."""

    team_folder: Path
    parent_folder: Path
    json_answers: bool
    seed: int


class ChangeRefused(Exception):
    """The rows are not as a change supposes; `code` is a key of `reports.OWN_SENTENCES`."""

    def __init__(self, code: str, **params: object) -> None:
        super().__init__(code)
        self.code = code
        self.params = params


class Operation(ABC):
    """One change of a version's rows; made by its module's `read`, so it is well formed."""

    name: ClassVar[str]

    @abstractmethod
    def to_dict(self) -> dict[str, object]:
        """Return its JSON form, without the name."""

    @abstractmethod
    def apply(self, rows: Rows, context: Context) -> Iterator[PlacedRow]:
        """Yield the rows as they are afterwards. Raises: ChangeRefused."""

    @classmethod
    def stages(cls, operations: Sequence[Self]) -> list[Stage]:
        """Return what applies several operations of this kind that follow each other; fewer walks are faster."""
        return [operation.apply for operation in operations]


# What lets rows stream through one or several operations.
Stage = Callable[[Rows, Context], Iterator[PlacedRow]]


class Door:
    """Reads the members of one JSON object; every refusal names the place."""

    def __init__(self, place: str, given: object) -> None:
        self.place = place
        if not isinstance(given, Mapping):
            raise InvalidInput(_("Send a JSON object for each change."), param=place)
        self._given = given
        self._known: set[str] = set()

    def has(self, name: str) -> bool:
        """Tell whether the member was sent, and is not null."""
        self._known.add(name)
        return self._given.get(name) is not None

    def value(self, name: str) -> object:
        """Return a member as it came. Raises: InvalidInput if it is missing."""
        if not self.has(name):
            raise self.refusal(name, _("'%(name)s' is missing.") % {"name": name})
        return self._given[name]

    def text(self, name: str) -> str:
        """Return a text."""
        value = self.value(name)
        if not isinstance(value, str):
            raise self.refusal(name, _("'%(name)s' must be a text.") % {"name": name})
        return value

    def id(self, name: str = "id") -> int:
        """Return the number of one row."""
        return self._id(name, self.value(name))

    def ids(self, name: str = "ids") -> frozenset[int]:
        """Return the numbers of at least one row."""
        values = self.value(name)
        if not isinstance(values, list) or not values:
            raise self.refusal(name, _("'%(name)s' must be a list of row numbers.") % {"name": name})
        if len(values) > MAX_IDS:
            raise self.refusal(name, _("A change may name at most %(limit)d rows.") % {"limit": MAX_IDS})
        return frozenset(self._id(name, value) for value in values)

    def split(self, name: str = "split") -> Split:
        """Return a split."""
        value = self.text(name)
        if value not in Split.values:
            raise self.refusal(
                name,
                _("There is no split '%(split)s'. The splits are: %(known)s.")
                % {"split": value[:40], "known": ", ".join(Split.values)},
            )
        return Split(value)

    def objects(self, name: str) -> list[Door]:
        """Return a list of objects, each behind a door of its own."""
        values = self.value(name)
        if not isinstance(values, list) or not values:
            raise self.refusal(name, _("'%(name)s' must be a list of objects.") % {"name": name})
        return [Door(f"{self.place}.{name}.{index}", value) for index, value in enumerate(values)]

    def refuse_unknown(self) -> None:
        """Refuse members that nobody asked for: a misspelt one must not quietly mean nothing."""
        unknown = sorted(str(name) for name in set(self._given) - self._known)
        if unknown:
            raise self.refusal(unknown[0][:40], _("'%(name)s' is not known here.") % {"name": unknown[0][:40]})

    def refusal(self, name: str, sentence: str, code: str = "invalid_value") -> InvalidInput:
        """Return the error about one member."""
        return InvalidInput(sentence, param=f"{self.place}.{name}", code=code)

    def _id(self, name: str, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < MAX_ID:
            raise self.refusal(name, _("A row's number must be a whole number from 1 on."))
        return value


def require_found(wanted: Iterable[int], found: set[int]) -> None:
    """Refuse a change of rows that are not there. Raises: ChangeRefused, naming the first."""
    missing = sorted(set(wanted) - found)
    if missing:
        raise ChangeRefused("row_missing", row=missing[0], count=len(missing))

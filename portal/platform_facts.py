"""What the console's first page shows: each room reports its own figures, so that no room imports one above it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from django.utils.functional import Promise


@dataclass(frozen=True)
class Fact:
    """One figure of the platform: a count with its name, a hint below it and where it is looked after."""

    label: str | Promise
    value: int
    icon: str
    hint: str = ""
    view: str = ""


_reporters: list[Callable[[], Iterable[Fact]]] = []


def report_by(reporter: Callable[[], Iterable[Fact]]) -> None:
    """Have `reporter` asked for its figures whenever a platform admin opens the console. Call it in `ready()`."""
    if reporter not in _reporters:
        _reporters.append(reporter)


def reported() -> list[Fact]:
    """Return the figures of all rooms, read in the caller's row scope."""
    return [fact for reporter in _reporters for fact in reporter()]

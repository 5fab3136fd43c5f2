"""The log of a run as pages and files show it: its last lines, a part of it, or all of it as text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import NamedTuple

from experiments.models import Run, RunEvent
from portal.rls import team_scope

SHOWN_LINES = 500
_AT_ONCE = 2000


class LogLine(NamedTuple):
    """A line as the pages' log component draws it."""

    at: datetime
    level: str
    text: str


def lines_of(events: Iterable[RunEvent]) -> list[LogLine]:
    """Return log events as lines."""
    return [LogLine(event.at, event.level, event.message) for event in events]


def lines_after(run: Run, before: int) -> list[LogLine]:
    """Return the lines that follow the first `before` ones, as many as a page shows."""
    first = run.events.order_by("id").values_list("pk", flat=True)[before : before + 1]
    return [line for pk in first for line in lines_of(run.events.filter(pk__gte=pk).order_by("id")[:SHOWN_LINES])]


def last_lines(run: Run) -> tuple[list[LogLine], int]:
    """Return the last lines, and how many come before them."""
    events = list(run.events.order_by("-id")[:SHOWN_LINES])[::-1]
    # Only where there may be more: most logs are short.
    before = run.events.filter(pk__lt=events[0].pk).count() if len(events) == SHOWN_LINES else 0
    return lines_of(events), before


def log_text(run: Run) -> Iterator[str]:
    """Yield the whole log as text. Opens the team's row scope itself, again and again, and reads a part in each."""
    after = 0
    while True:
        with team_scope(run.team_id):
            events = list(run.events.filter(pk__gt=after).order_by("id")[:_AT_ONCE])
        if not events:
            return
        after = events[-1].pk
        yield "".join(_as_text(line) for line in lines_of(events))


def _as_text(line: LogLine) -> str:
    text = line.text.replace("\n", "\n    ")  # what begins in the first column is a message of its own
    return f"{line.at.astimezone(UTC).isoformat(timespec='milliseconds')} {line.level.upper():7} {text}\n"

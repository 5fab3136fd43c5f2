"""What rooms above have to do when a run ends, whichever way; they register it here and are never imported."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

Ending = Callable[[UUID], None]
_endings: list[Ending] = []


def when_ended(ending: Ending) -> None:
    """Have `ending(run id)` called in the transaction that ends a run, in a scope that sees it. For `ready()`."""
    if ending not in _endings:
        _endings.append(ending)


def ended(run_id: UUID) -> None:
    """Say that a run has ended, in the transaction of its end."""
    for ending in _endings:
        ending(run_id)

"""Whether this process is about to end, for answers that may take longer than it has left."""

from __future__ import annotations

import time

_ends_at: float | None = None


def begin(left_s: float) -> None:
    """Say that long answers have to end within so many seconds."""
    global _ends_at
    _ends_at = time.monotonic() + left_s


def cancel() -> None:
    """Say that the process goes on after all; for tests."""
    global _ends_at
    _ends_at = None


def left_s() -> float | None:
    """Return how many seconds long answers have left, never less than 0; None as long as the process goes on."""
    return None if _ends_at is None else max(0.0, _ends_at - time.monotonic())

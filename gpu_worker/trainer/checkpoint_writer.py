"""Writes checkpoints beside the training: a step only copies its state, and waits for no disk."""

import contextlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path


class CheckpointWriter:
    """Writes one checkpoint at a time in a thread of its own; whoever trains learns here how that ended."""

    def __init__(self, written: Callable[[Path], None]) -> None:
        """`written` is called with each checkpoint that is safe, never from the writing thread."""
        self._written = written
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        # The thread starts now: where memory is short by the first checkpoint, Python would wait for ever for one whose
        # first lines found none.
        self._thread.submit(bool).result()
        self._pending: Future[Path] | None = None

    def begin(self, write: Callable[[], Path]) -> None:
        """Begin with a checkpoint, once the one before is safe. Raises: what that one failed with."""
        self.finish()
        self._pending = self._thread.submit(write)

    def look(self) -> None:
        """Tell of a checkpoint that has become safe meanwhile. Raises: what writing it failed with."""
        if self._pending is not None and self._pending.done():
            self.finish()

    def finish(self) -> None:
        """Wait until nothing is being written any more. Raises: what writing failed with."""
        pending, self._pending = self._pending, None
        if pending is not None:
            self._written(pending.result())

    def let_end(self) -> None:
        """Wait like `finish` where something else has failed already, and that is what has to be told."""
        with contextlib.suppress(Exception):
            self.finish()

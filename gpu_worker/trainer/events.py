"""Tells the supervisor what happens, one JSON object per line of standard output."""

import json
import os
import sys
import time
from typing import IO, Literal

Phase = Literal["loading", "tokenizing", "training", "saving"]


class Events:
    """Writes events to a stream, flushed one by one, so that a page can show them at once."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._only: str | None = None

    @classmethod
    def on_stdout(cls) -> "Events":
        """Take standard output for events alone; whatever libraries print goes to standard error from now on."""
        stream = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        return cls(stream)

    @classmethod
    def of_failure(cls) -> "Events":
        """Say why the run failed, and nothing else: the rest is said by the first of the processes."""
        events = cls.on_stdout()
        events._only = "failed"
        return events

    def emit(self, event: str, **fields: object) -> None:
        """Write one event. A reader that has gone away is no reason to lose a checkpoint, so it is ignored."""
        if self._only not in (None, event):
            return
        line = json.dumps({"event": event, "at": round(time.time(), 3), **fields}, allow_nan=False)
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (BrokenPipeError, ValueError):  # ValueError: the stream was closed by an earlier broken pipe
            self._stream = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 -- lives as long as we do

    def phase(self, phase: Phase) -> None:
        """Say which part of the run begins."""
        self.emit("phase", phase=phase)

    def log(self, message: str, level: Literal["info", "warning", "error"] = "info") -> None:
        """Say something to people. Numbers and row numbers only, never a row's text."""
        self.emit("log", level=level, message=message)

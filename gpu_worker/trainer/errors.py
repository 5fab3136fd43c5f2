"""The ways a run can fail, each with a code for programs and a sentence for people."""

from typing import Literal

FailureCode = Literal[
    "out_of_memory", "nan_loss", "disk_full", "bad_data", "bad_base_model", "bad_settings", "internal"
]

EXIT_FINISHED = 0
EXIT_FAILED = 1
EXIT_STOPPED = 75  # EX_TEMPFAIL: asked to stop, the work can be taken up again
EXIT_LOST = 76  # EX_PROTOCOL: others, with whom this process trains, are gone; they know why


class TrainingError(Exception):
    """A run cannot go on. `message` says what happened and what to do, and never quotes a row."""

    def __init__(self, code: FailureCode, message: str) -> None:
        super().__init__(message)
        self.code: FailureCode = code
        self.message = message


class StopRequested(Exception):
    """Someone asked the run to stop; raised only where the state is whole, so it can be saved as it is."""

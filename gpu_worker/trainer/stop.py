"""How a run hears that it should stop."""

from gpu_worker.trainer.errors import StopRequested


class StopFlag:
    """Set by a signal handler, asked by the run wherever its state is whole."""

    def __init__(self) -> None:
        self._requested = False

    def request(self) -> None:
        """Ask the run to stop at the next place where its state is whole."""
        self._requested = True

    @property
    def is_requested(self) -> bool:
        """Whether a stop was asked for."""
        return self._requested

    def check(self) -> None:
        """Raise StopRequested if a stop was asked for."""
        if self._requested:
            raise StopRequested

"""How often an evaluation tells how far it is."""

import time
from typing import Final

EVERY_S: Final = 0.5


class Pace:
    """Says when it is time to tell of progress again: at once, then every half second, and at the end."""

    def __init__(self) -> None:
        self._told_at = float("-inf")

    def is_due(self, *, is_last: bool = False) -> bool:
        """Tell whether to speak now; whoever is told so is taken to speak."""
        now = time.monotonic()
        if not is_last and now - self._told_at <= EVERY_S:
            return False
        self._told_at = now
        return True

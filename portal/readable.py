"""Whether something waits to be read, for any number of a file: `select` knows none above 1023."""

import select
from typing import Protocol


class HasFileno(Protocol):
    """A socket, or what stands for one."""

    def fileno(self) -> int:
        """Return the number of its file."""
        ...


def is_readable(file: HasFileno, wait_ms: int = 0) -> bool:
    """Return whether there is something to read, or its end, within so many milliseconds."""
    poll = select.poll()
    poll.register(file.fileno(), select.POLLIN)
    return bool(poll.poll(wait_ms))
